//! Access control lists as the library reads, narrows and writes them. `tests/access` tests who gets in.

#[allow(dead_code, reason = "the library uses the rest")]
#[path = "../src/version/acl.rs"]
mod acl;

use acl::Acl;

// The tags of the entries: the numbers of acl(5) and the kernel.
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

fn attribute(entries: &[(u16, u16)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(tag, may)| [tag.to_le_bytes(), may.to_le_bytes(), [0xff; 2], [0xff; 2]]);
    [2, 0, 0, 0].into_iter().chain(entries.flatten()).collect()
}

fn acl(entries: &[(u16, u16)]) -> Acl {
    Acl::parse(&attribute(entries)).unwrap()
}

#[test]
fn an_attribute_is_read_and_written_as_it_was() {
    let bytes = attribute(&[(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 4)]);
    assert_eq!(Acl::parse(&bytes).unwrap().to_attribute(), bytes);
    for broken in [&bytes[..3], &bytes[..bytes.len() - 1], &[1, 0, 0, 0], &bytes[..20]] {
        assert_eq!(Acl::parse(broken), None);
    }
}

#[test]
fn the_group_bits_are_the_mask() {
    assert_eq!(acl(&[(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 4)]).mode(), 0o664);
    assert_eq!(Acl::of_mode(0o4751).mode(), 0o751);
}

#[test]
fn nobody_gets_more() {
    for (mode, everybody) in
        [(0o644, 0o644), (0o640, 0o600), (0o604, 0o600), (0o664, 0o644), (0o044, 0), (0o755, 0o755)]
    {
        assert_eq!(Acl::of_mode(mode).for_everybody(), everybody, "{mode:o}");
    }
    let shut_out = acl(&[(USER_OBJ, 6), (USER, 0), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)]);
    assert_eq!(shut_out.for_everybody(), 0o600);
    assert_eq!(Acl::of_mode(0o640).without_group().mode(), 0o600);
    assert_eq!(Acl::of_mode(0o604).without_group().mode(), 0o600);
    assert_eq!(Acl::of_mode(0o664).without_group().mode(), 0o644);
    assert_eq!(Acl::of_mode(0o466).without_owner().mode(), 0o444);
    let named = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 6), (GROUP, 4), (MASK, 6), (OTHER, 6)]);
    let expected = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (GROUP, 4), (MASK, 6), (OTHER, 6)]);
    assert_eq!(named.without_group(), expected);
    // If the mask had no bits, Linux would treat members of the named group as others.
    let shut_out = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (GROUP, 0), (MASK, 4), (OTHER, 4)]);
    let expected = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 0), (MASK, 4), (OTHER, 4)]);
    assert_eq!(shut_out.without_group(), expected);
}
