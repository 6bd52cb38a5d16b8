//! Every promise of [`Store`] as a check with a name. Each back end runs them all; so does the simulator's store.
//!
//! The checks speak to the trait alone. They do upkeep between steps, at random or to its end, so that every list is asked for with
//! the indexes empty, half filled and full, and they close and open the store in the middle.

mod messages;
mod configuration;
mod sources;
mod waiting;
mod lists;
mod tasks;
mod removal;
mod pipes;
mod any_order;

use super::world::World;
use crate::Store;
use any_order::random_operations;
use bellwire_model::{DedupeKey, Delivery, EndpointKey, Sequence};
use std::sync::Arc;
use std::time::Duration;

/// A store that can be closed and opened again. Starts empty.
pub trait Harness {
    /// The store; nobody keeps it across [`Harness::reopen`].
    fn store(&self) -> Arc<dyn Store>;

    /// Closes and opens it, as a restart of the process would. Leases may end with it.
    fn reopen(&mut self);

    /// How long it keeps messages, if it removes older ones in its upkeep; `None` leaves out what depends on it.
    fn messages_kept_for(&self) -> Option<Duration> {
        None
    }
}

/// A check and its name.
pub type Check = (&'static str, fn(&mut Subject));

/// What a check is given. Opaque: only the checks here use it.
pub struct Subject(World);

macro_rules! checks {
    ($($part:ident { $($name:ident),* $(,)? })*) => {
        /// All checks, by name, in reading order.
        pub const CHECKS: &[Check] = &[$($((stringify!($name), |world| $part::$name(&mut world.0))),*),*];
    };
}

checks! {
    messages {
        what_was_accepted_is_there_after_a_restart,
        payloads_come_back_byte_for_byte,
        an_id_that_was_made_elsewhere_is_kept_whole,
        an_attempt_comes_back_as_it_was,
        a_key_leads_to_its_message_at_once_and_for_ever,
        an_answer_is_kept_until_it_expires,
        a_message_keeps_its_sender_s_place_in_a_trace,
        what_was_received_stays_with_its_message_and_goes_with_the_payload,
    }
    configuration {
        configuration_comes_back_as_it_was,
        every_way_of_access_comes_back,
        every_kind_of_endpoint_comes_back,
        health_changes_nothing_else,
        an_edit_leaves_alone_what_was_found_out_and_the_owner_has_the_last_word,
        what_is_kept_about_tokens_comes_back_as_it_was,
    }
    sources {
        a_source_comes_back_as_it_was_and_goes_with_its_application,
        the_newest_requests_of_a_source_are_kept,
        a_source_goes_on_where_its_cursor_stands,
        an_ended_subscription_outlives_its_source_and_a_restart,
    }
    waiting {
        a_lease_excludes_others_until_it_ends,
        a_late_writer_is_told_and_nothing_is_kept,
        a_fence_rises_over_a_restart,
        what_is_due_comes_in_order_of_its_due_time,
        a_fifo_endpoint_gets_its_messages_in_order_of_acceptance,
        a_delayed_message_waits_for_each_of_its_endpoints,
        an_outcome_moves_or_removes_the_row,
        a_delivery_that_never_waited_leaves_others_waiting,
        recovery_knows_what_is_unfinished,
        the_watermark_never_goes_back,
        what_waits_can_be_cancelled,
    }
    lists {
        pages_meet_at_their_edges,
        lists_can_be_filtered,
    }
    tasks {
        a_resend_is_owed_once,
        a_resend_to_an_endpoint_that_had_not_matched_is_a_delivery,
        recover_takes_each_failed_delivery_once,
        a_task_goes_on_where_it_stopped_whatever_happens_meanwhile,
        a_replay_takes_what_the_endpoint_never_got,
        a_bulk_replay_takes_what_its_filter_lets_through,
        a_purge_takes_the_payloads_up_to_its_creation,
        a_task_can_be_cancelled_and_one_whose_endpoint_is_gone_is,
        tasks_can_be_listed,
        a_task_that_was_cancelled_is_answered_once,
        the_end_of_a_task_is_answered_after_each_start_until_it_is_told,
        statistics_count_what_was_owed_and_say_who_takes_what,
        a_broadcast_reaches_each_application_once_whatever_happens,
        a_broadcast_that_was_cancelled_goes_no_further_and_forgets_its_message,
    }
    removal {
        an_expunged_payload_is_gone_and_what_waits_stays,
        an_expunged_response_says_so,
        deliveries_of_a_deleted_endpoint_end_once,
        a_deletion_half_done_goes_on_after_a_restart,
        a_late_outcome_does_not_end_a_delivery_twice,
        a_deleted_application_takes_its_endpoints_with_it,
        a_message_for_a_deleted_endpoint_ends,
        nothing_of_a_deleted_endpoint_is_leased,
        old_messages_go_and_what_waited_for_them_has_expired,
        a_payload_can_go_before_its_message,
    }
    pipes {
        a_log_is_read_page_by_page_and_misses_nothing,
        a_page_of_a_log_can_be_filtered_and_is_bounded,
        what_a_consumer_has_read_past_is_delivered,
        what_was_read_before_its_row_came_is_delivered,
        a_consumer_comes_back_where_it_was,
        what_a_reader_says_counts_once,
        a_reader_s_word_stands_against_an_engine_s,
        what_somebody_has_is_not_leased_again,
    }
    any_order {
        anything_in_any_order_agrees_with_the_model,
    }
}

/// Runs every check, each on a store of its own. Panics with the check's name and what did not hold.
pub fn conformance(make: &dyn Fn() -> Box<dyn Harness>) {
    for (name, _) in CHECKS {
        check(name, make);
    }
}

/// Runs the check called `name`.
pub fn check(name: &str, make: &dyn Fn() -> Box<dyn Harness>) {
    let found = CHECKS.iter().find(|(own, _)| *own == name);
    let (name, check) = found.unwrap_or_else(|| panic!("there is no check called {name}"));
    let context = Named(name);
    check(&mut Subject(World::new(make(), 1)));
    std::mem::forget(context);
}

/// Runs `steps` random operations with `seed` and compares with the model after each.
pub fn random(make: &dyn Fn() -> Box<dyn Harness>, seed: u64, steps: usize) {
    let context = Seeded(seed);
    random_operations(&mut World::new(make(), seed), steps);
    std::mem::forget(context);
}

/// Says which check it was when one panics.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("conformance check failed: {}", self.0);
    }
}

/// Says which seed it was when one panics.
struct Seeded(u64);

impl Drop for Seeded {
    fn drop(&mut self) {
        eprintln!("random operations failed with seed {}", self.0);
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn to(endpoint: u32, message: Sequence) -> Delivery {
    Delivery { endpoint: EndpointKey(endpoint), message }
}

fn key(n: u8) -> DedupeKey {
    DedupeKey([n; 16])
}
