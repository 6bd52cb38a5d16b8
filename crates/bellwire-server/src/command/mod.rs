//! One file per command.

/// Prints an error as every command does: what, the chain of causes, and a hint if there is one.
pub(crate) fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
