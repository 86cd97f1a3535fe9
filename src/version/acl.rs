//! The rights of a file as one list of entries: its permission bits, and its access control list if it has one.
//!
//! [acl(5)] has the rules. A plain mode is a list of three entries. A list with more entries has a mask. Then the group
//! bits of `st_mode` are the mask, and not the entry of the owning group.
//!
//! [acl(5)]: https://man7.org/linux/man-pages/man5/acl.5.html

/// The format of the attribute is `struct posix_acl_xattr_header` and `_entry` in include/uapi/linux/posix_acl_xattr.h:
/// little-endian numbers.
const VERSION: u32 = 2;
const ENTRY_LEN: usize = 8;

// include/uapi/linux/posix_acl.h
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of an entry that has none (ACL_UNDEFINED_ID).
const NO_ID: u32 = u32::MAX;

/// Three bits for each class of [acl(5)]. A plain mode needs no allocation.
///
/// [acl(5)]: https://man7.org/linux/man-pages/man5/acl.5.html
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl {
    owner: u16,
    users: Vec<Named>,
    group: u16,
    groups: Vec<Named>,
    /// Bits that the mask does not have are removed from `users`, `group` and `groups`.
    mask: Option<u16>,
    other: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    id: u32,
    may: u16,
}

impl Acl {
    /// The list of a plain mode.
    pub(crate) fn of_mode(mode: u32) -> Self {
        let bits = |shift: u32| (mode >> shift & 0o7) as u16;
        Acl { owner: bits(6), users: Vec::new(), group: bits(3), groups: Vec::new(), mask: None, other: bits(0) }
    }

    /// `None`: the attribute is not in the kernel's format.
    pub(crate) fn parse(attribute: &[u8]) -> Option<Self> {
        let (version, entries) = attribute.split_first_chunk()?;
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        let (mut owner, mut group, mut mask, mut other) = (None, None, None, None);
        for entry in entries.chunks(ENTRY_LEN) {
            let entry: [u8; ENTRY_LEN] = entry.try_into().ok()?;
            let [tag0, tag1, may0, may1, id @ ..] = entry;
            let (may, id) = (u16::from_le_bytes([may0, may1]) & 0o7, u32::from_le_bytes(id));
            match u16::from_le_bytes([tag0, tag1]) {
                USER_OBJ => owner = Some(may),
                USER => users.push(Named { id, may }),
                GROUP_OBJ => group = Some(may),
                GROUP => groups.push(Named { id, may }),
                MASK => mask = Some(may),
                OTHER => other = Some(may),
                _ => return None,
            }
        }
        let acl = Acl { owner: owner?, users, group: group?, groups, mask, other: other? };
        (u32::from_le_bytes(*version) == VERSION).then_some(acl)
    }

    /// The attribute in the kernel's format.
    pub(crate) fn to_attribute(&self) -> Vec<u8> {
        let named = |tag, named: &[Named]| named.iter().map(|it| (tag, it.may, it.id)).collect::<Vec<_>>();
        let entries = [
            vec![(USER_OBJ, self.owner, NO_ID)],
            named(USER, &self.users),
            vec![(GROUP_OBJ, self.group, NO_ID)],
            named(GROUP, &self.groups),
            self.mask.map(|mask| (MASK, mask, NO_ID)).into_iter().collect(),
            vec![(OTHER, self.other, NO_ID)],
        ];
        let mut attribute = VERSION.to_le_bytes().to_vec();
        for (tag, may, id) in entries.concat() {
            attribute.extend(tag.to_le_bytes());
            attribute.extend(may.to_le_bytes());
            attribute.extend(id.to_le_bytes());
        }
        attribute
    }

    /// The permission bits of `st_mode` for this list.
    pub(crate) fn mode(&self) -> u32 {
        mode(self.owner, self.mask.unwrap_or(self.group), self.other)
    }

    /// A plain mode that lets in nobody whom this list keeps out, whoever owns the file and whatever its group is. All
    /// but the owner get only the rights that everybody has.
    pub(crate) fn for_everybody(&self) -> u32 {
        let named = self.users.iter().chain(&self.groups).map(|it| it.may);
        let masked = named.chain([self.group]).map(|may| may & self.mask.unwrap_or(0o7));
        let all = masked.fold(self.owner & self.other, |all, may| all & may);
        mode(self.owner, all, all)
    }

    /// The list for a file that has another owner. The former owner is now one of the others or in a group, and must
    /// not get rights that the owner did not have.
    pub(crate) fn without_owner(mut self) -> Self {
        let entries = self.users.iter_mut().chain(&mut self.groups).map(|it| &mut it.may);
        entries.chain([&mut self.group, &mut self.other]).for_each(|may| *may &= self.owner);
        self
    }

    /// The list for a file that has another group. Members of the new group may have been among the others or in a
    /// named group before. Members of the former group are among the others now.
    pub(crate) fn without_group(mut self) -> Self {
        // The bits that the mask removes are removed for good. The mask itself stays. If it allows nothing, Linux does
        // not look at the list, and named users have the rights of others (`acl_permission_check` in fs/namei.c).
        let mask = self.mask.unwrap_or(0o7);
        let named = self.users.iter_mut().chain(&mut self.groups).map(|it| &mut it.may);
        named.chain([&mut self.group]).for_each(|may| *may &= mask);
        self.other &= self.group;
        self.group = self.groups.iter().fold(self.other, |all, it| all & it.may);
        self
    }
}

fn mode(owner: u16, group: u16, other: u16) -> u32 {
    u32::from(owner << 6 | group << 3 | other)
}
