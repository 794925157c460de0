//! The RFC 6962 tree under a seal.
//!
//! Owns: statement hash, root, inclusion paths. Does not own: the seal (see `seal`).

use crate::hash::{StatementHash, Thumbprint, sha256_of};

/// One node or root of the tree.
pub type Node = [u8; 32];

/// The statement hash of `payload` (its base64url text) under the leaf certificate `x5t`.
///
/// Source: custody-wire §4.2, an RFC 6962 leaf hash that pins payload and certificate.
#[must_use]
pub fn statement_hash(x5t: &Thumbprint, payload: &str) -> StatementHash {
    StatementHash(sha256_of(&[&[0], &x5t.0, payload.as_bytes()]))
}

fn parent(left: &Node, right: &Node) -> Node {
    sha256_of(&[&[1], left, right])
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The tree's root and, for each leaf, the sibling hashes from leaf to root.
///
/// An empty tree has no root: None.
#[must_use]
pub fn build(leaves: &[StatementHash]) -> Option<(Node, Vec<Vec<Node>>)> {
    let mut paths = vec![Vec::new(); leaves.len()];
    let root = fill(leaves, &mut paths)?;
    Some((root, paths))
}

fn fill(leaves: &[StatementHash], paths: &mut [Vec<Node>]) -> Option<Node> {
    if let [only] = leaves {
        return Some(only.0);
    }
    if leaves.is_empty() {
        return None;
    }
    let middle = split(leaves.len());
    let (left_paths, right_paths) = paths.split_at_mut_checked(middle)?;
    let (left_leaves, right_leaves) = leaves.split_at_checked(middle)?;
    let left = fill(left_leaves, left_paths)?;
    let right = fill(right_leaves, right_paths)?;
    for path in left_paths {
        path.push(right);
    }
    for path in right_paths {
        path.push(left);
    }
    Some(parent(&left, &right))
}

/// How many sibling hashes lead from leaf `index` to the root of a tree of `count` leaves.
#[must_use]
pub fn path_length(index: u32, count: u32) -> usize {
    let mut last = count.saturating_sub(1);
    let mut node = index;
    let mut length = 0;
    while last > 0 {
        // A right-most node without sibling climbs without one (RFC 9162 §2.1.3.2).
        if node & 1 == 1 || node < last {
            length += 1;
        }
        node >>= 1;
        last >>= 1;
    }
    length
}

/// The root that `path` leads to from `leaf` at `index`, or None if index, count and length do not fit.
///
/// Source: RFC 9162 §2.1.3.2, with `tree_size` = `count` of the verified seal.
#[must_use]
pub fn root_of(leaf: &StatementHash, index: u32, count: u32, path: &[Node]) -> Option<Node> {
    if index >= count || path.len() != path_length(index, count) {
        return None;
    }
    let (mut node, mut last, mut hash) = (index, count - 1, leaf.0);
    for sibling in path {
        if node & 1 == 1 || node == last {
            hash = parent(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = parent(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}
