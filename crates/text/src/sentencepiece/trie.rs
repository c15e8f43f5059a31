//! Which of many strings a text begins with.

/// Strings with a number each, found as prefixes of a text.
#[derive(Debug)]
pub(super) struct Trie {
    /// The root first. The children of a node are neighbours, sorted by their byte.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    byte: u8,
    children: u16,
    first_child: usize,
    id: Option<u32>,
}

impl Node {
    fn new(byte: u8) -> Self {
        Self {
            byte,
            children: 0,
            first_child: 0,
            id: None,
        }
    }
}

impl Trie {
    /// Of different strings, none of them empty. There are at most as many nodes as there are
    /// bytes, and one more.
    pub(super) fn new<'s>(entries: impl IntoIterator<Item = (&'s str, u32)>) -> Self {
        let mut entries: Vec<(&[u8], u32)> = entries
            .into_iter()
            .map(|(string, id)| (string.as_bytes(), id))
            .collect();
        entries.sort_unstable();
        let mut nodes = vec![Node::new(0)];
        // What is below each node, and how many bytes its entries share.
        let mut below = vec![(entries.as_slice(), 0)];
        let mut at = 0;
        while let Some(&(mut entries, depth)) = below.get(at) {
            // Sorted first is what ends here.
            if let Some(((string, id), longer)) = entries.split_first()
                && string.len() == depth
            {
                nodes[at].id = Some(*id);
                entries = longer;
            }
            nodes[at].first_child = nodes.len();
            for group in entries.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                nodes[at].children += 1;
                nodes.push(Node::new(group[0].0[depth]));
                below.push((group, depth + 1));
            }
            at += 1;
        }
        Self { nodes }
    }

    /// The strings that `text` begins with, shortest first: how many bytes, and which.
    pub(super) fn prefixes<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (usize, u32)> + 't {
        let mut node = self.nodes.first();
        text.bytes()
            .zip(1..)
            .map_while(move |(byte, length)| {
                node = self.child(node?, byte);
                node.map(|node| (length, node.id))
            })
            .filter_map(|(length, id)| Some((length, id?)))
    }

    fn child(&self, node: &Node, byte: u8) -> Option<&Node> {
        let children = &self.nodes[node.first_child..][..usize::from(node.children)];
        let at = children
            .binary_search_by_key(&byte, |child| child.byte)
            .ok()?;
        children.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_shortest_first() {
        let trie = Trie::new([
            ("ab", 2),
            ("a", 1),
            ("abcd", 4),
            ("b", 5),
            ("é", 6),
            ("è", 7),
        ]);
        let found = |text| trie.prefixes(text).collect::<Vec<_>>();
        assert_eq!(found("abcdef"), [(1, 1), (2, 2), (4, 4)]);
        assert_eq!(found("abc"), [(1, 1), (2, 2)]);
        assert_eq!(found("é"), [(2, 6)]);
        assert_eq!(found("ê"), []);
        assert_eq!(found(""), []);
        assert_eq!(found("cab"), []);
    }

    #[test]
    fn an_empty_trie_finds_nothing() {
        assert_eq!(Trie::new([]).prefixes("a").count(), 0);
    }

    #[test]
    fn all_bytes_may_follow_one_string() {
        let strings: Vec<String> = (0..0x800)
            .filter_map(char::from_u32)
            .map(String::from)
            .collect();
        let trie = Trie::new(strings.iter().map(String::as_str).zip(0..));
        for (string, id) in strings.iter().zip(0..) {
            assert_eq!(
                trie.prefixes(string).collect::<Vec<_>>(),
                [(string.len(), id)]
            );
        }
    }
}
