//! `timer`: messages by the clock, each time once.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::support::eventually::{eventually, eventually_within};
use crate::support::rig::Rig;

fn channel(source: &str) -> String {
    format!(
        r#"
name = "clock"
[source]
type = "timer"
{source}
[destination.out]
type = "file"
directory = "../out"
file_name = "{{{{ meta.scheduled_at | date('%Y%m%dT%H%M%S') }}}}.txt"
"#
    )
}

/// The times for which messages were made, the newest first.
fn times(rig: &Rig) -> Vec<Timestamp> {
    let time = |message: &Value| message["origin"]["scheduled_at"].as_str().unwrap().parse().unwrap();
    rig.messages("").iter().map(time).collect()
}

fn wait_for_times(rig: &Rig, count: usize) -> Vec<Timestamp> {
    eventually("times come", || Some(times(rig)).filter(|times| times.len() >= count))
}

#[test]
fn each_time_of_the_schedule_makes_a_message() {
    let source = r#"cron = "* * * * * *"
format = "json"
content = '{"at": {{ meta.scheduled_at }}, "now": {{ now() }}, "by": {{ meta.source }}, "in": {{ meta.channel }}}'"#;
    let rig = Rig::with(&channel(source));
    let times = wait_for_times(&rig, 3);
    for pair in times.windows(2) {
        // On a machine that is held up, one stands for several.
        let apart = pair[0].duration_since(pair[1]).as_millis();
        assert!(apart > 0 && apart % 1000 == 0, "{times:?}");
    }
    assert_eq!(times[0].subsec_nanosecond(), 0);
    let message = rig.wait_for_sent(1).remove(0);
    let story = rig.story(message["id"].as_str().unwrap());
    assert_eq!((&story["format"], &story["origin"]["source"]), (&"json".into(), &"timer".into()));
    let body: Value = serde_json::from_str(story["body"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(body["at"], story["origin"]["scheduled_at"]);
    assert_eq!((&body["by"], &body["in"]), (&"timer".into(), &"clock".into()));
    let (now, received): (Timestamp, Timestamp) =
        (body["now"].as_str().unwrap().parse().unwrap(), story["received_at"].as_str().unwrap().parse().unwrap());
    assert!(now.duration_since(received).abs().as_secs() < 1, "{now} {received}");
    let (_, text) = rig.cli(&["messages", "show", message["id"].as_str().unwrap()]);
    assert!(text.contains(&format!("made for {}", story["origin"]["scheduled_at"].as_str().unwrap())), "{text}");
}

#[test]
fn a_template_file_says_by_its_ending_what_it_writes() {
    let mut rig = Rig::new();
    rig.write(
        "channels/templates/ping.hl7",
        "MSH|^~\\&|LAB^{{ 'a|b' }}||||{{ now() | hl7_ts }}||NMQ^N01|{{ ulid() }}|P|2.5\n\n  ZPI|1\n",
    );
    rig.write("channels/clock.toml", channel("every = \"1s\"\ntemplate = \"templates/ping.hl7\""));
    rig.start();
    wait_for_times(&rig, 1);
    let messages = rig.messages("&message_type=NMQ^N01");
    assert!(!messages.is_empty(), "its references are found");
    let story = rig.story(messages[0]["id"].as_str().unwrap());
    let body = story["body"]["text"].as_str().unwrap();
    assert!(body.starts_with("MSH|^~\\&|LAB^a\\F\\b|") && body.ends_with("|P|2.5\rZPI|1\r"), "{body:?}");
}

#[test]
fn text_is_the_format_of_content_that_says_none_and_hl7_is_escaped_where_it_says_so() {
    let rig = Rig::with(&channel("every = \"100ms\"\ncontent = \"a|b {{ 'c|d' }}\""));
    wait_for_times(&rig, 1);
    let body = |rig: &Rig| rig.story(rig.messages("")[0]["id"].as_str().unwrap())["body"]["text"].clone();
    assert_eq!(body(&rig), "a|b c|d");
    let hl7 = "every = \"100ms\"\nformat = \"hl7\"\ncontent = \"\"\"\nMSH|^~\\\\&|{{ 'c|d' }}\nZPI|1\n\"\"\"";
    let rig = Rig::with(&channel(hl7));
    wait_for_times(&rig, 1);
    assert_eq!(body(&rig), "MSH|^~\\&|c\\F\\d\rZPI|1\r");
}

#[test]
fn no_time_comes_twice_through_kills_and_restarts() {
    let mut rig = Rig::new();
    rig.write("channels/clock.toml", channel("every = \"200ms\"\ncontent = \"x\"\nmissed = \"once\""));
    rig.start();
    for round in 1..=6 {
        wait_for_times(&rig, round * 2);
        rig.kill();
        rig.start();
    }
    let mut times = wait_for_times(&rig, 14);
    let count = times.len();
    times.dedup();
    assert_eq!(times.len(), count);
    assert!(times.is_sorted_by(|a, b| a > b), "in their order: {times:?}");
}

#[test]
fn what_was_missed_is_left_out_or_made_up_for_by_one() {
    const EVERY_MS: i64 = 2000;
    // The one that must be quick first.
    let cases = [("missed = \"once\"", 1), ("missed = \"skip\"", 0), ("", 0)];
    let start = |(missed, _): &(&str, usize)| {
        let source = format!("every = \"{EVERY_MS}ms\"\ncontent = \"x\"\n{missed}");
        Rig::with(&channel(&source))
    };
    let mut rigs: Vec<Rig> = cases.iter().map(start).collect();
    for rig in &mut rigs {
        wait_for_times(rig, 1);
        rig.terminate();
    }
    let down = Timestamp::now();
    // Two times or more go by; the start is right after one, so that the next is not reached before the channel runs.
    let up = eventually_within(Duration::from_secs(20), "times go by", || {
        let now = Timestamp::now();
        let is_early = (100..300).contains(&now.as_millisecond().rem_euclid(EVERY_MS));
        (now.duration_since(down).as_millis() > i128::from(EVERY_MS) && is_early).then_some(now)
    });
    for (rig, (missed, expected)) in rigs.iter_mut().zip(cases) {
        rig.start();
        let times = eventually("a time after the start", || Some(times(rig)).filter(|times| times[0] > up));
        let made_up: Vec<_> = times.iter().filter(|time| **time > down && **time < up).collect();
        assert_eq!(made_up.len(), expected, "{missed}: {times:?}, down {down}, up {up}");
        assert!(made_up.iter().all(|time| up.duration_since(**time).as_millis() < 300), "the last of them");
        if expected == 0 {
            continue;
        }
        // It came before all others.
        assert_eq!(times.iter().rfind(|time| **time > down), made_up.first().copied());
    }
}

#[test]
fn a_channel_that_is_new_has_missed_nothing() {
    let rig = Rig::with(&channel("cron = \"0 * * * *\"\ncontent = \"x\"\nmissed = \"once\""));
    // The door of the source is open by now: what it missed would have been made first.
    rig.post("/api/v1/channels/clock/pause", "{}");
    let begun = Timestamp::now();
    assert!(times(&rig).iter().all(|time| begun.duration_since(*time).as_secs() < 20), "{:?}", times(&rig));
}

#[test]
fn it_acts_within_its_hours_alone() {
    let day = Timestamp::now().strftime("%a").to_string().to_lowercase();
    let rig = Rig::with(&channel(&format!("every = \"100ms\"\ncontent = \"x\"\nbetween = [\"{day} 00:00-24:00\"]")));
    wait_for_times(&rig, 2);
    // Where it is that day not yet, or no longer.
    let other = if Timestamp::now().strftime("%H").to_string().as_str() < "12" { "Etc/GMT+12" } else { "Etc/GMT-14" };
    let source =
        format!("every = \"100ms\"\ncontent = \"x\"\nbetween = [\"{day} 00:00-24:00\"]\ntime_zone = \"{other}\"");
    rig.write("channels/channel.toml", channel(&source));
    rig.wait_for_log("its new version is in effect");
    let count = times(&rig).len();
    // A run of another channel's clock shows that time goes on.
    rig.write("channels/other.toml", channel("every = \"100ms\"\ncontent = \"x\"").replace("\"clock\"", "\"other\""));
    eventually("the other goes on", || (rig.messages("&channel=other").len() >= 5).then_some(()));
    assert_eq!(rig.messages("&channel=clock").len(), count);
}
