//! Patterns of tensor names. They mean the same as in Python's `fnmatch.fnmatchcase`: `*`, `?`, `[set]`, `[!set]`.

/// One element of a pattern.
enum Token {
    /// Any number of characters.
    Star,
    /// Any one character.
    Any,
    /// This character.
    Char(char),
    /// One character in these sorted ranges, or in none of them if negated.
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// A parsed pattern.
pub struct Glob(Vec<Token>);

/// Whether a text has a character with a special meaning in patterns.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Whether a name matches a pattern, as a whole.
pub fn matches(pattern: &str, name: &str) -> bool {
    Glob::new(pattern).matches(name)
}

impl Glob {
    /// Parses a pattern. Every text is a valid one.
    pub fn new(pattern: &str) -> Self {
        let pattern: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut at = 0;
        // If one `[` has no `]` behind it, no later `[` has: the search is made once only.
        let mut sets_close = true;
        while let Some(c) = pattern.get(at) {
            at += 1;
            let token = match c {
                '*' if matches!(tokens.last(), Some(Token::Star)) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '[' if sets_close => match end_of_set(&pattern, at) {
                    Some(end) => {
                        let set = set(&pattern[at..end]);
                        at = end + 1;
                        set
                    }
                    None => {
                        sets_close = false;
                        Token::Char('[')
                    }
                },
                c => Token::Char(*c),
            };
            tokens.push(token);
        }
        Glob(tokens)
    }

    /// Whether a name matches, as a whole.
    ///
    /// Backtracks to the last star only: an earlier star could not match anything that the last one cannot. So the time
    /// is at most proportional to the length of the pattern plus the square of the length of the name.
    pub fn matches(&self, name: &str) -> bool {
        let (mut token, mut rest) = (0, name.chars());
        let mut retry = None;
        loop {
            let before = rest.clone();
            match (self.0.get(token), rest.next()) {
                (Some(Token::Star), _) => {
                    token += 1;
                    rest = before.clone();
                    retry = Some((token, before));
                    continue;
                }
                (Some(one), Some(c)) if one.accepts(c) => {
                    token += 1;
                    continue;
                }
                (None, None) => return true,
                (_, None) => return false, // later attempts have less of the name left
                (_, Some(_)) => {}
            }
            let Some((after_star, from)) = &mut retry else { return false };
            from.next();
            (token, rest) = (*after_star, from.clone());
        }
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Star | Token::Any => true,
            Token::Char(own) => *own == c,
            Token::Set { negated, ranges } => {
                let after = ranges.partition_point(|(first, _)| *first <= c);
                let inside = after.checked_sub(1).is_some_and(|i| c <= ranges[i].1);
                inside != *negated
            }
        }
    }
}

/// Index of the `]` that ends the set starting at `start`; a `]` in first place is a member of the set.
fn end_of_set(pattern: &[char], start: usize) -> Option<usize> {
    let mut from = start;
    from += usize::from(pattern.get(from) == Some(&'!'));
    from += usize::from(pattern.get(from) == Some(&']'));
    pattern.get(from..)?.iter().position(|c| *c == ']').map(|length| from + length)
}

/// The set with this text between its brackets.
fn set(text: &[char]) -> Token {
    let mut pieces = without_empty_ranges(split_at_ranges(text));
    // As in Python, the `!` is looked for only now: it counts where an empty range before it was removed.
    let negated = pieces[0].first() == Some(&'!');
    if negated {
        pieces[0].remove(0);
    }
    let mut ranges = Vec::new();
    let mut from: Option<char> = None;
    for (i, piece) in pieces.iter().enumerate() {
        let mut members = piece.iter().copied();
        match (i, from, members.next()) {
            (0, _, Some(c)) => ranges.push((c, c)),
            (_, Some(first), Some(last)) => ranges.push((first, last)),
            // A hyphen with nothing before it is a member.
            (1.., None, Some(c)) => ranges.extend([('-', '-'), (c, c)]),
            (_, _, None) => {}
        }
        ranges.extend(members.map(|c| (c, c)));
        from = piece.last().copied();
    }
    Token::Set { negated, ranges: sorted_and_merged(ranges) }
}

/// The pieces between the hyphens that make ranges: such a hyphen has a character before it (the `!` aside) and one
/// after it, which no second range shares.
fn split_at_ranges(text: &[char]) -> Vec<Vec<char>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut from = 1 + usize::from(text.first() == Some(&'!'));
    while let Some(hyphen) = text.get(from..).and_then(|rest| rest.iter().position(|c| *c == '-')) {
        let hyphen = from + hyphen;
        if hyphen + 1 == text.len() {
            break;
        }
        pieces.push(text[start..hyphen].to_vec());
        start = hyphen + 1;
        from = hyphen + 3;
    }
    pieces.push(text[start..].to_vec());
    pieces
}

/// Joins the pieces around a range whose ends are in the wrong order, without the ends.
fn without_empty_ranges(pieces: Vec<Vec<char>>) -> Vec<Vec<char>> {
    let mut kept: Vec<Vec<char>> = Vec::with_capacity(pieces.len());
    // From the last to the first, as Python does; `kept` is in that order, and each piece in it reversed, so that
    // joining is an appending.
    for mut piece in pieces.into_iter().rev() {
        piece.reverse();
        match kept.last_mut() {
            Some(next) if piece.first() > next.last() => {
                next.pop();
                next.extend_from_slice(&piece[1..]);
            }
            _ => kept.push(piece),
        }
    }
    kept.reverse();
    kept.iter_mut().for_each(|piece| piece.reverse());
    kept
}

fn sorted_and_merged(mut ranges: Vec<(char, char)>) -> Vec<(char, char)> {
    ranges.sort_unstable();
    let mut merged: Vec<(char, char)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}
