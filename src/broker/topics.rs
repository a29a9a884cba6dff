//! The topic index: from the name of a message to everybody whose pattern matches it.
//!
//! Names are found by hash. Patterns with wildcards live in a trie of segments, which a lookup walks with a *set* of
//! nodes, one step per segment, as an automaton does: so a pattern full of `#` costs no more than its length, and a
//! node that is reached on several ways still counts once. Nodes are numbered rather than nested, because a pattern
//! of ten thousand segments must not become ten thousand stack frames.

use std::collections::{BTreeMap, HashMap};

use crate::message::{Pattern, Segment, Text, is_open_to_wildcards};

/// Who listens where. `T` is cloned out, so that nothing is held while it is used.
#[derive(Debug)]
pub(super) struct TopicIndex<T> {
    literals: HashMap<Text, Members<T>>,
    /// Node 0 is the root; there are none at all while no pattern has a wildcard.
    nodes: Vec<Node<T>>,
    free: Vec<usize>,
}

/// Who listens to one pattern, in the order of their keys.
type Members<T> = BTreeMap<u64, T>;

#[derive(Debug)]
struct Node<T> {
    /// It stands for `#`: any further segment leads back to it.
    many: bool,
    literals: HashMap<Text, usize>,
    globs: BTreeMap<Text, usize>,
    one_child: Option<usize>,
    many_child: Option<usize>,
    members: Members<T>,
}

const ROOT: usize = 0;

/// What has room for more is made smaller once it is mostly empty.
const LARGE: usize = 64;

impl<T> Default for TopicIndex<T> {
    fn default() -> Self {
        TopicIndex { literals: HashMap::new(), nodes: Vec::new(), free: Vec::new() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Node {
            many: false,
            literals: HashMap::new(),
            globs: BTreeMap::new(),
            one_child: None,
            many_child: None,
            members: Members::new(),
        }
    }
}

impl<T: Clone> TopicIndex<T> {
    /// Lets `member` listen to `pattern` under a key of its own.
    pub(super) fn insert(&mut self, pattern: &Pattern, key: u64, member: T) {
        if pattern.is_literal() {
            self.literals.entry(Text::from(pattern.as_str())).or_default().insert(key, member);
            return;
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = ROOT;
        for segment in pattern.segments() {
            at = self.child_or_new(at, segment);
        }
        self.nodes[at].members.insert(key, member);
    }

    /// Ends what [`TopicIndex::insert`] began with the same pattern and key.
    pub(super) fn remove(&mut self, pattern: &Pattern, key: u64) -> Option<T> {
        if pattern.is_literal() {
            let members = self.literals.get_mut(pattern.as_str())?;
            let member = members.remove(&key);
            if members.is_empty() {
                self.literals.remove(pattern.as_str());
                shrink(&mut self.literals);
            }
            return member;
        }
        let path = self.path(pattern)?;
        let member = self.nodes[*path.last()?].members.remove(&key);
        self.prune(pattern, &path);
        if self.nodes.capacity() > LARGE && self.nodes.len() - self.free.len() <= self.nodes.capacity() / 4 {
            self.compact();
        }
        member
    }

    /// Adds everybody to `found` who listens to this name, each key once.
    pub(super) fn find(&self, name: &Pattern, found: &mut Vec<T>) {
        if let Some(members) = self.literals.get(name.as_str()) {
            found.extend(members.values().cloned());
        }
        if !self.nodes.is_empty() {
            for node in self.walk(name) {
                found.extend(self.nodes[node].members.values().cloned());
            }
        }
    }

    /// Everybody, for a last word.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        let literals = self.literals.values();
        literals.chain(self.nodes.iter().map(|node| &node.members)).flat_map(Members::values)
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.nodes.is_empty()
    }

    /// The nodes at which a pattern ends that matches `name`, each once.
    fn walk(&self, name: &Pattern) -> Vec<usize> {
        let mut segments = name.as_str().split('/');
        let (mut active, mut next) = (Vec::new(), Vec::new());
        if is_open_to_wildcards(name.first()) {
            self.enter(ROOT, &mut active);
        } else if let Some(child) = segments.next().and_then(|first| self.nodes[ROOT].literals.get(first)) {
            self.enter(*child, &mut active);
        }
        for segment in segments {
            for node in active.drain(..) {
                self.step(node, segment, &mut next);
            }
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut active, &mut next);
        }
        active
    }

    /// Adds the nodes to which one segment leads from `node`.
    fn step(&self, node: usize, segment: &str, next: &mut Vec<usize>) {
        let from = &self.nodes[node];
        if from.many {
            self.enter(node, next);
        }
        let globs = from.globs.iter().filter(|(glob, _)| Segment::Glob(glob).matches(segment));
        let children = from.literals.get(segment).into_iter().chain(globs.map(|(_, child)| child));
        for child in children.chain(&from.one_child) {
            self.enter(*child, next);
        }
    }

    /// Adds a node, and those `#` below it that stand for nothing.
    fn enter(&self, node: usize, next: &mut Vec<usize>) {
        let mut at = Some(node);
        while let Some(node) = at {
            next.push(node);
            at = self.nodes[node].many_child;
        }
    }

    fn child(&self, node: usize, segment: Segment<'_>) -> Option<usize> {
        let node = &self.nodes[node];
        match segment {
            Segment::Literal(name) => node.literals.get(name).copied(),
            Segment::Glob(glob) => node.globs.get(glob).copied(),
            Segment::One => node.one_child,
            Segment::Many => node.many_child,
        }
    }

    fn child_or_new(&mut self, parent: usize, segment: Segment<'_>) -> usize {
        if let Some(child) = self.child(parent, segment) {
            return child;
        }
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
        self.nodes[child].many = segment == Segment::Many;
        let parent = &mut self.nodes[parent];
        match segment {
            Segment::Literal(name) => _ = parent.literals.insert(Text::from(name), child),
            Segment::Glob(glob) => _ = parent.globs.insert(Text::from(glob), child),
            Segment::One => parent.one_child = Some(child),
            Segment::Many => parent.many_child = Some(child),
        }
        child
    }

    /// The nodes from the root to the end of `pattern`.
    fn path(&self, pattern: &Pattern) -> Option<Vec<usize>> {
        let mut path = vec![ROOT];
        self.nodes.first()?;
        for segment in pattern.segments() {
            path.push(self.child(*path.last()?, segment)?);
        }
        Some(path)
    }

    /// Takes away the nodes at the end of `path` that lead to nobody.
    fn prune(&mut self, pattern: &Pattern, path: &[usize]) {
        let segments: Vec<_> = pattern.segments().collect();
        for (ends, segment) in path.windows(2).zip(segments).rev() {
            let (parent, child) = (ends[0], ends[1]);
            if !self.nodes[child].is_idle() {
                return;
            }
            self.nodes[parent].forget(segment);
            self.nodes[child] = Node::default();
            self.free.push(child);
        }
        if self.nodes[ROOT].is_idle() {
            (self.nodes, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Numbers the nodes anew, without those that are free: each comes after its parent, which learns its number.
    fn compact(&mut self) {
        let mut nodes = Vec::with_capacity(2 * (self.nodes.len() - self.free.len()));
        let mut old = std::mem::take(&mut self.nodes);
        self.free = Vec::new();
        nodes.push(std::mem::take(&mut old[ROOT]));
        let mut at = 0;
        while at < nodes.len() {
            let mut parent = std::mem::take(&mut nodes[at]);
            for child in parent.children_mut() {
                nodes.push(std::mem::take(&mut old[*child]));
                *child = nodes.len() - 1;
            }
            nodes[at] = parent;
            at += 1;
        }
        self.nodes = nodes;
    }
}

fn shrink<T>(map: &mut HashMap<Text, T>) {
    if map.capacity() > LARGE && map.len() <= map.capacity() / 4 {
        map.shrink_to(map.capacity() / 2);
    }
}

impl<T> Node<T> {
    fn children_mut(&mut self) -> impl Iterator<Item = &mut usize> {
        let named = self.literals.values_mut().chain(self.globs.values_mut());
        named.chain(&mut self.one_child).chain(&mut self.many_child)
    }

    fn is_idle(&self) -> bool {
        self.members.is_empty()
            && self.literals.is_empty()
            && self.globs.is_empty()
            && self.one_child.is_none()
            && self.many_child.is_none()
    }

    fn forget(&mut self, segment: Segment<'_>) {
        match segment {
            Segment::Literal(name) => {
                self.literals.remove(name);
                shrink(&mut self.literals);
            }
            Segment::Glob(glob) => _ = self.globs.remove(glob),
            Segment::One => self.one_child = None,
            Segment::Many => self.many_child = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(patterns: &[&str]) -> TopicIndex<usize> {
        let mut index = TopicIndex::default();
        for (key, pattern) in patterns.iter().enumerate() {
            index.insert(&Pattern::canonical((*pattern).to_owned()), key as u64, key);
        }
        index
    }

    fn found(index: &TopicIndex<usize>, name: &str) -> Vec<usize> {
        let mut found = Vec::new();
        index.find(&Pattern::canonical(name.to_owned()), &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn names_and_wildcards_are_found_together() {
        let index = index(&["a/b", "a/+", "a/#", "#", "a/b*", "x/#"]);
        assert_eq!(found(&index, "a/b"), [0, 1, 2, 3, 4]);
        assert_eq!(found(&index, "a"), [2, 3]);
        assert_eq!(found(&index, "c"), [3]);
    }

    #[test]
    fn a_pattern_that_matches_in_many_ways_is_found_once() {
        let index = index(&["#/#/#", "#/a/#/a/#"]);
        assert_eq!(found(&index, "a/a/a/a/a/a"), [0, 1]);
    }

    #[test]
    fn a_leading_wildcard_is_blind_to_system_names() {
        let index = index(&["#", "+/x", "s*/x", "$SYS/#", "stompgate/+", "*S*/x"]);
        assert_eq!(found(&index, "$SYS/x"), [3]);
        assert_eq!(found(&index, "stompgate/x"), [4]);
        assert_eq!(found(&index, "$SYS"), [3]);
    }

    #[test]
    fn what_leaves_leaves_nothing_behind() {
        let patterns = ["a/b", "a/+/#", "a/+", "#", "a/b*/c"];
        let mut index = index(&patterns);
        for (key, pattern) in patterns.iter().enumerate() {
            assert_eq!(index.remove(&Pattern::canonical(*pattern), key as u64), Some(key));
        }
        assert!(index.is_empty());
        assert_eq!(index.remove(&Pattern::canonical("a/+"), 2), None);
    }

    #[test]
    fn one_pattern_that_stays_keeps_no_room_for_all_that_left() {
        let crowd: Vec<_> = (0..10_000).map(|number| Pattern::canonical(format!("a/{number}/+/x*/#"))).collect();
        let mut index = index(&["a/+/#", "b"]);
        for (key, pattern) in crowd.iter().enumerate() {
            index.insert(pattern, key as u64, key);
            index.insert(&Pattern::canonical(format!("{key}")), 1, key);
        }
        for (key, pattern) in crowd.iter().enumerate().rev() {
            assert_eq!(index.remove(pattern, key as u64), Some(key));
            assert_eq!(index.remove(&Pattern::canonical(format!("{key}")), 1), Some(key));
            if key == 7 {
                assert_eq!(found(&index, "a/5/c/x1/d"), [0, 5]);
            }
        }
        assert_eq!(found(&index, "a/1/x"), [0]);
        let places = index.nodes.iter().map(|node| node.literals.capacity()).max().max(Some(index.literals.capacity()));
        assert!(index.nodes.capacity() <= LARGE && places <= Some(LARGE), "{places:?}");
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "$x", "a*", "*b*", "+", "#"]), 1..6)
            .prop_map(|segments| segments.join("/"))
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "$x", "stompgate"]), 1..7)
            .prop_map(|segments| segments.join("/"))
    }

    proptest! {
        #[test]
        fn the_index_finds_what_the_patterns_match(
            patterns in prop::collection::vec((pattern(), any::<bool>()), 0..20),
            names in prop::collection::vec(name(), 1..10),
        ) {
            let mut index = TopicIndex::default();
            for (key, (pattern, _)) in patterns.iter().enumerate() {
                index.insert(&Pattern::canonical(pattern.clone()), key as u64, key);
            }
            for (key, (pattern, _)) in patterns.iter().enumerate().filter(|(_, (_, stays))| !stays) {
                index.remove(&Pattern::canonical(pattern.clone()), key as u64);
            }
            for name in &names {
                let literal = Pattern::canonical(name.clone());
                let expected: Vec<_> = patterns.iter().enumerate()
                    .filter(|(_, (pattern, stays))| *stays && Pattern::canonical(pattern.clone()).matches(&literal))
                    .map(|(key, _)| key).collect();
                prop_assert_eq!(found(&index, name), expected, "{}", name);
            }
        }
    }
}
