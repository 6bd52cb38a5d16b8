//! For tests of what fetches: a server that tells what it was asked.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request with what `body` makes of its line and its whole text, `slow` ones never. Runs as long as the runtime.
pub(crate) async fn echo(body: fn(&str, &str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..count]).into_owned();
                let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
                if line.contains("/slow") {
                    return std::future::pending().await;
                }
                let body = body(line, &text);
                let head = format!(
                    "HTTP/1.1 201 Made\r\nx-b: 2\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            });
        }
    });
    format!("http://{address}")
}
