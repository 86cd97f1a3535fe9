//! Several files changed as one: the calls, the state after a process has died during a change, the process that
//! finishes the change, and attacks that must not succeed.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod deaths;
mod found;
mod hostile;
mod limits;
mod place;
mod stuck;
mod users;

use std::process::ExitCode;

use crate::common::{no_root, not_linux, test, test_if};

fn main() -> ExitCode {
    let root = || no_root().or(not_linux());
    common::main(
        vec![
            test("a_batch_and_an_update_do_the_same", calls::a_batch_and_an_update_do_the_same),
            test("of_several_changes_of_a_file_the_last_one_counts", calls::the_last_change_counts),
            test("links_are_followed_and_stay", calls::links_are_followed_and_stay),
            test("two_files_with_one_lock", calls::two_files_with_one_lock),
            test("missing_directories", calls::missing_directories),
            test("one_file_and_none", calls::one_file_and_none),
            test("a_wrong_number_of_versions", calls::a_wrong_number_of_versions),
            test("a_change_that_fails_or_panics", calls::a_change_that_fails_or_panics),
            test("an_obstacle_means_that_nothing_is_done", calls::an_obstacle_means_that_nothing_is_done),
            test("a_lock_that_cannot_be_taken", calls::a_lock_that_cannot_be_taken),
            test("modes_are_kept", calls::modes_are_kept),
            test_if(not_linux(), "in_memory_nothing_can_be_durable", limits::in_memory_nothing_can_be_durable),
            test_if(not_linux(), "several_file_systems", limits::several_file_systems),
            test("a_thousand_files", limits::a_thousand_files),
            test("a_change_in_a_child_made_by_fork", limits::a_change_in_a_child_made_by_fork),
            test("a_child_leaves_the_names_of_its_parent", limits::a_child_leaves_the_names_of_its_parent),
            test("the_dead_are_survived_by_whoever_comes", deaths::the_dead_are_survived),
            test("what_was_not_decided_is_swept", deaths::what_was_not_decided_is_swept),
            test("lists_show_what_is_unfinished", deaths::lists_show_what_is_unfinished),
            test("recover_finishes_all", deaths::recover_finishes_all),
            test("prune_and_sweep_know_intents", deaths::prune_and_sweep_know_intents),
            test("two_files_with_one_lock_after_a_death", deaths::two_files_with_one_lock),
            test("whoever_holds_other_locks_finishes_it", deaths::a_caller_that_holds_other_locks),
            test("many_callers_come_at_once", deaths::many_callers_come_at_once),
            test("below_a_lock_root_that_was_moved", deaths::below_a_lock_root_that_was_moved),
            test("later_changes_are_not_undone", deaths::later_changes_are_not_undone),
            test("a_directory_that_is_gone", stuck::a_directory_that_is_gone),
            test("a_directory_that_is_another_one", stuck::a_directory_that_is_another_one),
            test("a_temporary_file_that_was_removed", stuck::a_temporary_file_that_was_removed),
            test("files_that_were_replaced_without_locks", stuck::files_that_were_replaced_without_locks),
            test("it_is_given_up", stuck::it_is_given_up),
            test("what_is_no_intent_is_not_given_up", stuck::what_is_no_intent_is_not_given_up),
            test("a_mark_without_an_intent", hostile::a_mark_without_an_intent),
            test("a_mark_that_leads_elsewhere", hostile::a_mark_that_leads_elsewhere),
            test("a_mark_of_an_intent_for_other_files", hostile::a_mark_of_an_intent_for_other_files),
            test("an_intent_that_is_torn_or_foreign", hostile::an_intent_that_is_torn_or_foreign),
            test("an_intent_is_what_the_protocol_says", hostile::an_intent_is_what_the_protocol_says),
            test("inode_numbers_that_are_used_again", found::inode_numbers_that_are_used_again),
            test("a_mark_that_is_gone", found::a_mark_that_is_gone),
            test("a_mark_of_another_intent", found::a_mark_of_another_intent),
            test("a_lock_file_that_was_removed_by_hand", found::a_lock_file_that_was_removed_by_hand),
            test("what_was_done_with_an_error", found::what_was_done_with_an_error),
            test("a_file_that_cannot_be_changed", found::a_file_that_cannot_be_changed),
            test("an_intent_that_others_may_write_to", found::an_intent_that_others_may_write_to),
            test("a_copy_of_an_intent", found::a_copy_of_an_intent),
            test_if(
                root(),
                "a_user_who_may_not_finish_it_gets_an_error",
                users::a_user_who_may_not_finish_it_gets_an_error,
            ),
            test_if(root(), "a_user_who_may_only_read_goes_on", users::a_user_who_may_only_read_goes_on),
            test_if(root(), "an_intent_of_another_user_has_his_rights", users::an_intent_of_another_user),
        ],
        &[
            ("die", place::die),
            ("open_many", limits::open_many),
            ("fork_in_a_change", limits::fork_in_a_change),
            ("die_in_a_child", limits::die_in_a_child),
            ("come_by", deaths::come_by),
            ("read_as", users::read_as),
        ],
    )
}
