// SPDX-License-Identifier: MIT OR Apache-2.0
//! `WWW-Authenticate`, read from servers that may be anything.

/// Longest header that is read, in bytes.
const LEN_MAX: usize = 4096;
/// Challenges and parameters read of a header.
const COUNT_MAX: usize = 16;

/// One challenge: a scheme in lower case and its parameters, names in lower case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, also: &[u8]) {
        while let [first, rest @ ..] = self.0
            && (matches!(first, b' ' | b'\t') || also.contains(first))
        {
            self.0 = rest;
        }
    }

    fn token(&mut self) -> Option<String> {
        let len = self.0.iter().take_while(|&&byte| is_token(byte)).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        (len > 0).then(|| token.iter().map(|&byte| byte as char).collect())
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// A token or quoted string; `None` if a quotation does not end.
    fn value(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return self.token();
        }
        let mut value = String::new();
        loop {
            match self.0 {
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    return Some(value);
                }
                [b'\\', escaped, rest @ ..] => {
                    value.push(*escaped as char);
                    self.0 = rest;
                }
                [byte, rest @ ..] => {
                    value.push(*byte as char);
                    self.0 = rest;
                }
                [] => return None,
            }
        }
    }
}

/// The challenges of one header; what cannot be read ends it.
pub(crate) fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > LEN_MAX || !header.is_ascii() {
        return challenges;
    }
    let mut cursor = Cursor(header.as_bytes());
    for _ in 0..COUNT_MAX * 2 {
        cursor.skip(b",");
        let Some(name) = cursor.token() else { break };
        let name = name.to_ascii_lowercase();
        cursor.skip(b"");
        if cursor.take(b'=') {
            cursor.skip(b"");
            let Some(challenge) = challenges.last_mut() else { break };
            let Some(value) = cursor.value() else { break };
            if challenge.parameters.len() < COUNT_MAX {
                challenge.parameters.push((name, value));
            }
        } else if challenges.len() < COUNT_MAX {
            challenges.push(Challenge { scheme: name, parameters: Vec::new() });
        }
    }
    challenges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_registries_send() {
        let header = concat!(
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",",
            "scope=\"repository:a/b:pull,push\", Basic realm=\"x \\\"y\\\"\""
        );
        let challenges = parse_challenges(header);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenges[1].scheme, "basic");
        assert_eq!(challenges[1].parameter("realm"), Some("x \"y\""));
        assert_eq!(
            parse_challenges("Bearer realm=\"open"),
            [Challenge { scheme: "bearer".into(), parameters: vec![] }]
        );
        assert!(parse_challenges("=x").is_empty());
    }

    proptest! {
        #[test]
        fn ends_whatever_comes(header in "\\PC{0,300}") {
            prop_assert!(parse_challenges(&header).len() <= COUNT_MAX);
        }
    }
}
