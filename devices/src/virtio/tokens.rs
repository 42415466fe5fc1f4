//! What is kept of requests until their answers come.

/// Values by token. There are never more of them than a queue has buffers.
pub(super) struct Tokens<T> {
    places: Vec<Option<T>>,
    /// Tokens that are not in use.
    free: Vec<usize>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Tokens<T> {
        Tokens { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Tokens<T> {
    /// Keeps a value; its token.
    pub(super) fn keep(&mut self, value: T) -> u64 {
        let token = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        if let Some(place) = self.places.get_mut(token) {
            *place = Some(value);
        }
        token as u64
    }

    /// Gives back the value of a token, which may be used for another one then.
    pub(super) fn take(&mut self, token: u64) -> Option<T> {
        let token = usize::try_from(token).ok()?;
        let value = self.places.get_mut(token)?.take()?;
        self.free.push(token);
        Some(value)
    }

    /// The values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_one_value_at_a_time() {
        let mut tokens = Tokens::default();
        let (a, b) = (tokens.keep('a'), tokens.keep('b'));
        assert_ne!(a, b);
        assert_eq!(
            (tokens.take(a), tokens.take(a), tokens.take(u64::MAX)),
            (Some('a'), None, None)
        );
        let c = tokens.keep('c');
        assert_eq!(c, a);
        assert_eq!(tokens.iter().collect::<String>(), "cb");
        assert_eq!(tokens.take(b), Some('b'));
    }
}
