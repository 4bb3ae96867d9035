//! Makes text from outside safe for a terminal and a log.
//!
//! Reasons, user and file names, text from a feed or a web server: any of it may contain characters that move the
//! cursor, colour the screen, change the text direction, or begin a line that nobody wrote. Only this module
//! defines which characters those are, and what is shown instead.

use std::fmt::{self, Display, Write};

/// Displays a value with each character that would act on a terminal escaped as in `\u{1b}`, line ends included.
pub struct Printable<T>(pub T);

/// The same for text of several lines: line ends stay, and each following line is indented by `indent`, so that it
/// cannot be taken for a separate message.
pub struct Lines<T> {
    /// The text to show.
    pub text: T,
    /// Prefix of each line but the first.
    pub indent: &'static str,
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape { to: f, line_end: None }, "{}", self.0)
    }
}

impl<T: Display> Display for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape { to: f, line_end: Some(self.indent) }, "{}", self.text)
    }
}

/// Escapes the same characters in JSON as `\u001b`; they occur only in its strings.
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Returns whether a character has an effect other than being visible: control characters (C0, DEL, C1),
/// separators of lines and paragraphs, and characters that change the direction of the surrounding text or are
/// invisible in it (Unicode TR 9 and TR 36, 3.5).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

struct Escape<W> {
    to: W,
    line_end: Option<&'static str>,
}

impl<W: Write> Write for Escape<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(acts) {
            let (clean, others) = rest.split_at(at);
            self.to.write_str(clean)?;
            let mut others = others.chars();
            match (others.next(), self.line_end) {
                (Some('\n'), Some(indent)) => write!(self.to, "\n{indent}")?,
                (Some(c), _) => write!(self.to, "{}", c.escape_unicode())?,
                (None, _) => {}
            }
            rest = others.as_str();
        }
        self.to.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_on_a_terminal_is_shown_as_its_number() {
        let cases = [
            ("clears the screen", "a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a line of its own", "a\nERROR b\r", "a\\u{a}ERROR b\\u{d}"),
            ("the same in one byte", "\u{9b}2J\x7f", "\\u{9b}2J\\u{7f}"),
            ("right to left", "\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("invisible", "a\u{200b}\u{e0041}", "a\\u{200b}\\u{e0041}"),
            ("letters of any script", "größe 日本 émile", "größe 日本 émile"),
            ("a backslash is one", "C:\\u{1b}", "C:\\u{1b}"),
        ];
        for (why, text, expected) in cases {
            assert_eq!(Printable(text).to_string(), expected, "{why}");
        }
    }

    #[test]
    fn a_line_of_a_text_cannot_be_taken_for_another_message() {
        let text = Lines { text: "one\ntwo\x07\r\nthree", indent: "    " };
        assert_eq!(text.to_string(), "one\n    two\\u{7}\\u{d}\n    three");
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ "reason": "\x1b[2J\u{202e}\u{9b}\u{e0041}\n" });
        let shown = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.contains(|c| acts(c) && c != '\n'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
