//! Redis' patterns: `*`, `?`, `[a-z]`, `[^a]` and `\` before what is meant as it is.

/// Whether the whole of `text` fits `pattern`, byte by byte, as in redis-server's PSUBSCRIBE.
///
/// Takes time proportional to the product of the lengths at most: of several stars only the last
/// one met is ever tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last star, and the text from where that was last tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            star = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match text {
            [] if pattern.is_empty() => return true,
            [] => return false,
            [byte, rest @ ..] => {
                match_one(pattern, *byte).filter(|(fits, _)| *fits).map(|(_, after)| (after, rest))
            }
        };
        if let Some(next) = step {
            (pattern, text) = next;
            continue;
        }
        let Some((after_star, [_, tried @ ..])) = star else { return false };
        star = Some((after_star, tried));
        (pattern, text) = (after_star, tried);
    }
}

/// Whether `byte` fits the first element of `pattern`, and what follows that; `None` at the end of
/// the pattern.
fn match_one(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some((true, rest)),
        [b'[', rest @ ..] => Some(match_class(rest, byte)),
        [b'\\', escaped, rest @ ..] => Some((*escaped == byte, rest)),
        [plain, rest @ ..] => Some((*plain == byte, rest)),
    }
}

/// The same for what follows a `[`; one that is never closed ends with the pattern.
fn match_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => return (found != negated, class),
            [b']', rest @ ..] => return (found != negated, rest),
            [b'\\', escaped, rest @ ..] => {
                found |= *escaped == byte;
                rest
            }
            [start, b'-', end, rest @ ..] => {
                found |= (*start.min(end)..=*start.max(end)).contains(&byte);
                rest
            }
            [plain, rest @ ..] => {
                found |= *plain == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_redis() {
        let fits = [
            ("*", ""),
            ("*", "anything"),
            ("h?llo", "hello"),
            ("h*llo", "hllo"),
            ("h*llo", "heeeello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hbllo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("h[a\\-]llo", "h-llo"),
            ("a\\*", "a*"),
            ("*a*b*c", "xxaxxbxxbxxc"),
            ("[ab", "b"),
            ("a**", "a"),
        ];
        for (pattern, text) in fits {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        let misses = [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("a\\*", "ab"),
            ("*a*b*c", "xxaxxbxxbxx"),
            ("abc", "abcd"),
            ("news.*", "news"),
        ];
        for (pattern, text) in misses {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
