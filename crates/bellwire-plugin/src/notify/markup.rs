//! What an event holds, written so that it is no markup where a note goes: what stands in the template itself is its owner's.

use crate::template::Spot;

/// What services make of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Markup {
    /// It is shown as it is.
    None,
    /// Slack's `mrkdwn`: a mention of everyone, or a link with another name, begins with `<`.
    /// <https://docs.slack.dev/messaging/formatting-message-text>
    Slack,
    Html,
    /// Discord's Markdown, with code.
    Discord,
    /// Of an Adaptive Card's text, without code. <https://learn.microsoft.com/adaptive-cards/authoring-cards/text-features>
    Teams,
}

impl Markup {
    /// A value in its place.
    pub(super) fn written(self, value: String, spot: Spot<'_>) -> String {
        match self {
            Markup::None => value,
            Markup::Slack => without_tags(&value),
            Markup::Html => without_tags(&value).replace('"', "&quot;").replace('\'', "&#39;"),
            // In code a backslash is one, and only what ends it is markup.
            Markup::Discord if is_in_code(spot.before) => value.replace('`', "\u{2cb}"),
            Markup::Discord | Markup::Teams if spot.in_url => encoded(&value),
            Markup::Discord | Markup::Teams => without_markdown(&value),
        }
    }
}

fn without_tags(value: &str) -> String {
    value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What stands before a character in its line, where lists and headings begin.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// Digits, as of a numbered list.
    Number,
    Text,
}

/// With a backslash before what could be Markdown, a mention or one of Teams' functions. An address stays one that shows itself: what could be
/// markup in it is percent-encoded.
fn without_markdown(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 16);
    // The template may have put the value at the beginning of a line.
    let mut before = Before::Nothing;
    let mut rest = value;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("https://") || rest.starts_with("http://") {
            let end = rest.find(|c: char| c.is_whitespace() || c == '<' || c == '>').unwrap_or(rest.len());
            text.push_str(&encoded(&rest[..end]));
            (before, rest) = (Before::Text, &rest[end..]);
            continue;
        }
        rest = &rest[c.len_utf8()..];
        let is_markup = match c {
            '\\' | '`' | '*' | '_' | '~' | '|' | '[' | ']' | '(' | ')' | '<' | '>' | '@' | '&' | '{' => true,
            '#' | '+' | '-' => before == Before::Nothing,
            '.' => before == Before::Number && rest.chars().next().is_none_or(char::is_whitespace),
            _ => false,
        };
        if is_markup {
            text.push('\\');
        }
        text.push(c);
        before = match c {
            '\n' | '\r' => Before::Nothing,
            c if c.is_whitespace() && before == Before::Nothing => Before::Nothing,
            c if c.is_ascii_digit() && before != Before::Text => Before::Number,
            _ => Before::Text,
        };
    }
    text
}

/// A part of an address without what could be Markdown.
fn encoded(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for c in part.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '~' | '|' | '[' | ']' | '(' | ')' | '<' | '>' | '@' | '{' => {
                text.push_str(&format!("%{:02X}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text
}

/// Whether code has begun in this text and not ended: between runs of as many backticks.
fn is_in_code(text: &str) -> bool {
    let mut open = None;
    let mut rest = text;
    while let Some(at) = rest.find(['`', '\\']) {
        let run = rest[at..].bytes().take_while(|b| *b == b'`').count();
        let past = match run {
            // A backslash, and what it stands before; in code it is one.
            0 if open.is_none() => 1 + rest[at + 1..].chars().next().map_or(0, char::len_utf8),
            0 => 1,
            run => {
                match open {
                    None => open = Some(run),
                    Some(begun) if begun == run => open = None,
                    Some(_) => {}
                }
                run
            }
        };
        rest = &rest[at + past..];
    }
    open.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(markup: Markup, before: &str, value: &str) -> String {
        markup.written(value.to_owned(), Spot { before, in_url: false })
    }

    #[test]
    fn a_value_is_no_markdown() {
        let check = |value: &str, expected: &str| {
            for markup in [Markup::Discord, Markup::Teams] {
                assert_eq!(written(markup, "", value), expected);
            }
        };
        check("plain text, 1.50: 10:30!", "plain text, 1.50: 10:30!");
        check("**bold** _it_ ~~s~~ ||h|| `c`", r"\*\*bold\*\* \_it\_ \~\~s\~\~ \|\|h\|\| \`c\`");
        check(r"\*not\*", r"\\\*not\\\*");
        check("[Sign in](https://evil.example)", r"\[Sign in\]\(https://evil.example%29");
        check("<@123> <#5> <https://x> @everyone", r"\<\@123\> \<#5\> \<https://x\> \@everyone");
        check("# h\n-# s\n> q\n2026-01-01 + 1", "\\# h\n\\-# s\n\\> q\n2026-01-01 + 1");
        check("1. a\n 2) b\n- c\n3.", "1\\. a\n 2\\) b\n\\- c\n3\\.");
        check("{{DATE(2017-02-14T06:00:00Z, SHORT)}}", r"\{\{DATE\(2017-02-14T06:00:00Z, SHORT\)}}");
    }

    #[test]
    fn an_address_stays_one_that_shows_itself() {
        for (value, expected) in [
            ("see https://example.com/a_b/*c*?d=e#f now", "see https://example.com/a%5Fb/%2Ac%2A?d=e#f now"),
            ("http://bank.example@evil.example/[x](y)", "http://bank.example%40evil.example/%5Bx%5D%28y%29"),
        ] {
            assert_eq!(written(Markup::Discord, "", value), expected);
        }
        let part = Markup::Discord.written("a_b*".to_owned(), Spot { before: "https://example.com/", in_url: true });
        assert_eq!(part, "a%5Fb%2A");
    }

    #[test]
    fn a_value_in_code_stays_in_it() {
        for before in ["`", "```\n", "a `b` \\` ``x ` "] {
            assert_eq!(written(Markup::Discord, before, "a_b` **c** ```"), "a_b\u{2cb} **c** \u{2cb}\u{2cb}\u{2cb}");
        }
        for before in ["", "`a` ", "\\`", "``` ` ``` ", "`\\` "] {
            assert_eq!(written(Markup::Discord, before, "a_b"), r"a\_b", "{before}");
        }
        assert_eq!(written(Markup::Teams, "`", "a_b"), r"a\_b", "there is no code in a card's text");
    }

    #[test]
    fn tags_are_escaped_where_they_are_markup() {
        let value = "<!channel> & \"'";
        assert_eq!(written(Markup::Slack, "", value), "&lt;!channel&gt; &amp; \"'");
        assert_eq!(written(Markup::Html, "", value), "&lt;!channel&gt; &amp; &quot;&#39;");
        assert_eq!(written(Markup::None, "", value), value);
    }
}
