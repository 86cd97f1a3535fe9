//! The list of the tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::cases::{Access, Writer};
use crate::common::acl::{ACCESS, attribute, set_attribute};
use crate::common::{Work, no_root, test_if};
use crate::{attributes, namespaces, report, stories, table, users};

pub(crate) const WORKERS: &[(&str, Work)] = &[
    ("open", users::open),
    ("write", stories::write),
    ("write_in_a_namespace", namespaces::write),
    ("table", table::table),
];

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for base in bases() {
        let missing = no_root().or_else(|| no_acls(&base));
        let file_system = report::file_system(&base);
        for writer in Writer::ALL {
            let (base, name) = (base.clone(), format!("nobody_gets_in: {file_system}, {}", writer.name()));
            trials.push(test_if(missing, &name, move || table::nobody_gets_in(&base, writer)));
        }
    }
    let missing = no_root().or_else(|| no_acls(&env::temp_dir()));
    for writer in [Writer::Owner, Writer::Member, Writer::Root] {
        let name = format!("nobody_gets_in_when_a_call_is_refused: {}", writer.name());
        let body = move || table::nobody_gets_in_when_a_call_is_refused(&env::temp_dir(), writer);
        trials.push(test_if(missing, &name, body));
    }
    for (name, story) in STORIES {
        trials.push(test_if(missing, name, story));
    }
    for base in bases() {
        let name = format!("user_attributes_are_kept_exactly: {}", report::file_system(&base));
        let missing = no_root().or_else(|| no_acls(&base));
        trials.push(test_if(missing, &name, move || attributes::user_attributes_are_kept_exactly(&base)));
    }
    let without = "a_file_system_without_attributes_costs_no_error";
    trials.push(test_if(
        missing.or_else(no_ramfs),
        without,
        attributes::a_file_system_without_attributes_costs_no_error,
    ));
    for (name, story) in IN_NAMESPACES {
        trials.push(test_if(missing.or_else(no_user_namespaces), name, story));
    }
    let control = "control: a_copy_of_the_mode_alone_is_noticed";
    trials.push(test_if(missing, control, table::a_copy_of_the_mode_alone_is_noticed));
    trials
}

type Story = (&'static str, fn());

const STORIES: [Story; 18] = [
    ("an_acl_is_kept_and_the_group_stays_out", stories::an_acl_is_kept_and_the_group_stays_out),
    ("a_user_who_is_shut_out_by_an_acl_stays_out", stories::a_user_who_is_shut_out_by_an_acl_stays_out),
    (
        "a_default_acl_does_not_land_on_a_file_that_was_there",
        stories::a_default_acl_does_not_land_on_a_file_that_was_there,
    ),
    ("a_default_acl_does_not_shut_the_group_out", stories::a_default_acl_does_not_shut_the_group_out),
    (
        "a_group_that_is_shut_out_stays_out_while_a_file_is_written",
        stories::a_group_that_is_shut_out_stays_out_while_a_file_is_written,
    ),
    ("a_group_that_is_shut_out_stays_out_for_good", stories::a_group_that_is_shut_out_stays_out_for_good),
    (
        "an_owner_who_is_shut_out_stays_out_when_the_file_has_another",
        stories::an_owner_who_is_shut_out_stays_out_when_the_file_has_another,
    ),
    (
        "what_a_member_of_the_group_writes_still_lets_the_group_in",
        stories::what_a_member_of_the_group_writes_still_lets_the_group_in,
    ),
    ("user_attributes_of_a_read_only_file_are_kept", attributes::user_attributes_of_a_read_only_file_are_kept),
    ("user_attributes_and_an_acl_are_kept_together", attributes::user_attributes_and_an_acl_are_kept_together),
    ("capabilities_are_kept_by_root", attributes::capabilities_are_kept_by_root),
    (
        "capabilities_are_dropped_if_the_writer_may_not_set_them",
        attributes::capabilities_are_dropped_if_the_writer_may_not_set_them,
    ),
    ("attributes_that_may_not_be_read_are_no_error", attributes::attributes_that_may_not_be_read_are_no_error),
    ("a_file_without_attributes_gets_none", attributes::a_file_without_attributes_gets_none),
    ("a_file_that_was_deleted_leaves_nothing", attributes::a_file_that_was_deleted_leaves_nothing),
    (
        "calls_for_attributes_that_are_not_supported_cost_no_error",
        attributes::calls_for_attributes_that_are_not_supported_cost_no_error,
    ),
    (
        "in_a_sandbox_that_refuses_the_calls_a_version_is_its_owners_alone",
        attributes::in_a_sandbox_that_refuses_the_calls_a_version_is_its_owners_alone,
    ),
    ("outside_of_namespaces_nobody_keeps_his_file", namespaces::outside_of_namespaces_nobody_keeps_his_file),
];

const IN_NAMESPACES: [Story; 4] = [
    ("an_unmapped_user_in_an_acl_stays_out", namespaces::an_unmapped_user_in_an_acl_stays_out),
    ("a_file_whose_owner_is_not_mapped_is_not_nobodys", namespaces::a_file_whose_owner_is_not_mapped_is_not_nobodys),
    ("a_group_that_is_not_mapped_is_not_nobodys", namespaces::a_group_that_is_not_mapped_is_not_nobodys),
    ("where_all_ids_are_mapped_nobody_keeps_his_file", namespaces::where_all_ids_are_mapped_nobody_keeps_his_file),
];

/// Directories that may be on different file systems.
fn bases() -> Vec<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    let mut bases = vec![env::temp_dir()];
    if memory.is_dir() && report::file_system(&memory) != report::file_system(&bases[0]) {
        bases.push(memory);
    }
    bases
}

/// The reason why ACLs cannot be tested in this directory.
fn no_acls(base: &Path) -> Option<&'static str> {
    let dir = tempfile::tempdir_in(base).unwrap();
    let acl = Access::NamedUserMayNothing.of_file(0o644, 0).unwrap();
    let set = set_attribute(dir.path(), ACCESS, &acl.encode());
    (set.is_err() || attribute(dir.path(), ACCESS).is_none()).then_some("needs a file system with ACLs")
}

/// The reason why ramfs cannot be mounted.
fn no_ramfs() -> Option<&'static str> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!may_mount() || !known.contains("ramfs")).then_some("needs ramfs, and root that may mount")
}

fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).unwrap_or(0) & CAP_SYS_ADMIN != 0
}

/// The reason why there are no user namespaces.
fn no_user_namespaces() -> Option<&'static str> {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    (!may_mount() || matches!(most.trim(), "" | "0")).then_some("needs user namespaces")
}
