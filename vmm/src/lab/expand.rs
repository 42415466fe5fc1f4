//! Expressions in a guest's strings: what makes the guests of one `count` differ.
//!
//! `{name}` is the guest's name, `{index}` its number among its siblings (from 0), `{index+N}`
//! and `{index-N}` that number moved by N. An expression starts right after its brace; a brace
//! with anything but a letter behind it, as in `repeat 2 { … }`, is itself, and so is the second
//! of two, as in `{{name}`.

/// The values that expressions have in one guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
}

/// Replaces every expression of `text`.
///
/// # Errors
/// What is wrong with the first expression that cannot be replaced.
pub(super) fn expand(text: &str, scope: Scope<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            out.push('{');
            rest = after;
        } else if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let (expression, after) =
                after.split_once('}').ok_or("an expression without its closing brace")?;
            out.push_str(&evaluate(expression.trim_end(), scope)?);
            rest = after;
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(expression: &str, scope: Scope<'_>) -> Result<String, String> {
    let unknown = || format!("unknown expression {{{expression}}}");
    if expression == "name" {
        return Ok(scope.name.to_owned());
    }
    let rest = expression.strip_prefix("index").ok_or_else(unknown)?.trim_start();
    let index = i64::from(scope.index);
    let value = if rest.is_empty() {
        index
    } else if let Some(number) = rest.strip_prefix('+') {
        index + i64::from(number.trim().parse::<u32>().map_err(|_| unknown())?)
    } else if let Some(number) = rest.strip_prefix('-') {
        index - i64::from(number.trim().parse::<u32>().map_err(|_| unknown())?)
    } else {
        return Err(unknown());
    };
    if value < 0 {
        return Err(format!("{{{expression}}} is negative for the guest {}", scope.name));
    }
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<String, String> {
        expand(text, Scope { name: "node-2", index: 2 })
    }

    #[test]
    fn expressions_are_replaced() {
        assert_eq!(said("{name}: {index} {index+1} {index - 2}").unwrap(), "node-2: 2 3 0");
        assert_eq!(said("none").unwrap(), "none");
    }

    #[test]
    fn other_braces_are_themselves() {
        assert_eq!(said("{{index} é {index}").unwrap(), "{index} é 2");
        for text in ["repeat 2 { repeat 3 { print }}", "{", "}", "{}", "a {1}", "{\n"] {
            assert_eq!(said(text).unwrap(), text);
        }
    }

    #[test]
    fn wrong_expressions_are_named() {
        assert_eq!(said("{indx}").unwrap_err(), "unknown expression {indx}");
        assert_eq!(said("{index*2}").unwrap_err(), "unknown expression {index*2}");
        assert_eq!(
            said("{index+99999999999}").unwrap_err(),
            "unknown expression {index+99999999999}"
        );
        assert_eq!(said("{index-3}").unwrap_err(), "{index-3} is negative for the guest node-2");
        assert_eq!(said("a{index").unwrap_err(), "an expression without its closing brace");
    }
}
