//! Statements as each database reads them: what is text, a quoted name or a comment, and what is not.

use crate::template::Template;

/// What a statement begins with. Others change what the database is, or reach out of it.
const VERBS: [&str; 8] = ["INSERT", "UPDATE", "DELETE", "REPLACE", "SELECT", "WITH", "MERGE", "CALL"];
/// Stands where the template has a place.
const PLACE: char = '\0';

/// Whose SQL it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    Mysql,
}

/// Whether it begins with one of the [`VERBS`], comments left aside, and each place in it stands for a value.
///
/// # Errors
/// What is wrong with it, as a clause.
pub(super) fn check(statement: &Template, dialect: Dialect) -> Result<(), String> {
    let text = statement.with_places(|_| PLACE.to_string());
    let mut verb = None;
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let (part, len) = match dialect.comment(rest)? {
            Some(len) => (Part::Comment, len),
            None => match dialect.quoted(rest)? {
                Some(len) => (Part::Quoted, len),
                None => (Part::Plain, c.len_utf8()),
            },
        };
        let (own, after) = rest.split_at(len);
        match part {
            Part::Comment if own.contains(PLACE) => {
                return Err("a place such as {{payload.id}} in a comment stands for nothing; leave it out".to_owned());
            }
            Part::Quoted if own.contains(PLACE) => {
                return Err(
                    "a place such as {{payload.id}} stands for a value by itself; leave the quotes around it out"
                        .to_owned(),
                );
            }
            Part::Plain if verb.is_none() && !c.is_whitespace() => {
                verb = Some(rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default());
            }
            _ => {}
        }
        rest = after;
    }
    let verb = verb.unwrap_or_default();
    if VERBS.contains(&verb.to_ascii_uppercase().as_str()) {
        return Ok(());
    }
    Err(format!("a statement begins with one of {}, not with {verb:?}", VERBS.join(", ")))
}

enum Part {
    Comment,
    Quoted,
    Plain,
}

impl Dialect {
    /// The length of the comment that `text` begins with.
    fn comment(self, text: &str) -> Result<Option<usize>, String> {
        let of_line = || text.find('\n').unwrap_or(text.len());
        if let Some(after) = text.strip_prefix("--") {
            // MySQL takes `5--3` for a subtraction.
            let is_one = self != Dialect::Mysql || after.chars().next().is_none_or(char::is_whitespace);
            return Ok(is_one.then(of_line));
        }
        if text.starts_with('#') && self == Dialect::Mysql {
            return Ok(Some(of_line()));
        }
        let Some(inside) = text.strip_prefix("/*") else { return Ok(None) };
        // MySQL and MariaDB carry out what stands in these.
        if self == Dialect::Mysql && ["!", "+", "M!"].iter().any(|mark| inside.starts_with(mark)) {
            return Ok(None);
        }
        let (mut depth, mut at) = (1, 2);
        while depth > 0 {
            let found = text[at..].find(['*', '/']).ok_or("a /* is not closed")?;
            at += found;
            let (step, by) = match text.get(at..at + 2) {
                Some("*/") => (2, -1),
                Some("/*") if self == Dialect::Postgres => (2, 1),
                _ => (1, 0),
            };
            (at, depth) = (at + step, depth + by);
        }
        Ok(Some(at))
    }

    /// The length of the text or the quoted name that `text` begins with. A quote that is written twice ends one and begins the next.
    fn quoted(self, text: &str) -> Result<Option<usize>, String> {
        let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"' | '`')) else { return Ok(None) };
        let escapes = self == Dialect::Mysql && quote != '`';
        let mut inside = text.char_indices().skip(1);
        while let Some((at, c)) = inside.next() {
            if c == quote {
                return Ok(Some(at + 1));
            }
            if c == '\\' && escapes {
                inside.next();
            }
        }
        Err(format!("a {quote} is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Dialect; 3] = [Dialect::Sqlite, Dialect::Postgres, Dialect::Mysql];

    fn check(statement: &str, dialect: Dialect) -> Result<(), String> {
        super::check(&Template::parse(statement).expect(statement), dialect)
    }

    #[track_caller]
    fn refused(statement: &str, dialect: Dialect, expected: &str) {
        let error = check(statement, dialect).expect_err(statement);
        assert!(error.contains(expected), "{statement}: {error}");
    }

    #[test]
    fn comments_are_passed_over() {
        for dialect in ALL {
            for statement in [
                "INSERT INTO t VALUES ({{dedupe}}) -- the sender's own id: :name ?",
                "INSERT INTO t -- it's\n VALUES ({{dedupe}})",
                "INSERT INTO t /* it's \"the\" sender's :id */ VALUES ({{dedupe}}, '/* no', ' -- comment')",
                "-- keep what's paid\n/**/ /* one ** */INSERT INTO t VALUES ({{dedupe}})",
                "SELECT 1 --",
            ] {
                assert_eq!(check(statement, dialect), Ok(()), "{dialect:?}: {statement}");
            }
            refused("INSERT INTO t VALUES (1) -- {{payload.id}}", dialect, "in a comment");
            refused("INSERT INTO t /* {{payload.id}} */ VALUES (1)", dialect, "in a comment");
            refused("INSERT INTO t VALUES (1) /* it", dialect, "a /* is not closed");
            refused("-- INSERT\nDROP TABLE t", dialect, "not with \"DROP\"");
            refused("-- INSERT", dialect, "not with \"\"");
            refused("INSERT INTO t VALUES ('-- {{payload.id}}')", dialect, "leave the quotes");
        }
    }

    #[test]
    fn each_database_has_its_own_comments() {
        check("UPDATE t SET a = 1 # it's\n WHERE b = {{payload.id}}", Dialect::Mysql).expect("# is one of MySQL");
        refused("UPDATE t SET a = 1 # it's\n WHERE b = {{payload.id}}", Dialect::Postgres, "not closed");
        check("SELECT a #> '{b}' FROM t WHERE c = {{payload.id}}", Dialect::Postgres).expect("# is an operator");
        check("UPDATE t SET a = 5--3 + {{payload.id}}", Dialect::Mysql).expect("two signs");
        refused("UPDATE t SET a = 5--3 + {{payload.id}}", Dialect::Sqlite, "in a comment");
        check("SELECT 1 /* a /* it's */ b's */", Dialect::Postgres).expect("they nest");
        refused("SELECT 1 /* a /* it's */ b's */", Dialect::Sqlite, "not closed");
        check("SELECT /*+ x */ 1 /*!50000 + {{payload.id}} */", Dialect::Mysql).expect("it is carried out");
        refused("/*! DROP TABLE t */ SELECT 1", Dialect::Mysql, "not with \"\"");
        refused("/*M! DROP TABLE t */ SELECT 1", Dialect::Mysql, "not with \"\"");
    }

    #[test]
    fn mysql_has_backslashes_in_its_texts() {
        check(r"INSERT INTO t VALUES ('it\'s', {{payload.id}})", Dialect::Mysql).expect("an apostrophe");
        refused(r"INSERT INTO t VALUES ('a\', {{payload.id}})", Dialect::Mysql, "not closed");
        check(r"INSERT INTO t VALUES ('a\', {{payload.id}})", Dialect::Sqlite).expect("a backslash");
    }
}
