//! A failover is felt: commands fail until the topology is read anew, in other shards too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::contender::{Proxy, Setup};
use super::{Look, Sight};
use crate::wait::{Probe, until};
use crate::{ClusterOptions, RedisCluster, RedisServer};

/// What was in flight when the primary was killed is answered within this; a failover takes longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Time for the cluster to choose a new primary.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long clients go on after that.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// A client's pause between two commands.
const PAUSE: Duration = Duration::from_millis(20);

/// What one client saw.
#[derive(Default)]
struct Story {
    /// Errors, and when they came after the kill.
    errors: Vec<(Duration, String)>,
    commands: usize,
}

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let options =
        ClusterOptions { node_timeout: Duration::from_secs(2), ..ClusterOptions::default() };
    let cluster = RedisCluster::start(options)?;
    let mut sights = Vec::new();
    for (policy, victim) in [("MASTER", 0), ("REPLICA", 1)] {
        let settings =
            json!({"op_timeout": "10s", "enable_redirection": true, "read_policy": policy});
        let proxy = look.start(&Setup::new(settings, &cluster))?;
        sights.extend(fail_over(&cluster, &proxy, policy, victim)?);
    }
    Ok(sights)
}

fn fail_over(
    cluster: &RedisCluster,
    proxy: &Proxy,
    policy: &str,
    victim: usize,
) -> Result<Vec<Sight>> {
    let tags = super::tags(cluster)?;
    let primaries = cluster.primaries()?;
    let victim_node = *primaries.get(victim).context("too few primaries")?;
    let replicas = cluster.replicas_of(victim_node)?;
    let successor = *replicas.first().context("no replica")?;
    let commands: Vec<(bool, bool, String)> = tags
        .iter()
        .enumerate()
        .flat_map(|(shard, tag)| {
            let write = (shard == victim, true, format!("SET {{{tag}}} 1"));
            [write, (shard == victim, false, format!("GET {{{tag}}}"))]
        })
        .collect();
    for (_, _, words) in &commands {
        proxy.connect()?.ask(words)?;
    }
    cluster.wait_until_in_sync()?;

    let (stop, begin) = (AtomicBool::new(false), Instant::now());
    let stories = thread::scope(|scope| {
        // Also when what follows fails.
        let _stop = StopOnDrop(&stop);
        let clients: Vec<_> = commands
            .iter()
            .map(|(_, _, words)| scope.spawn(|| go_on(proxy, words, begin, &stop)))
            .collect();
        wait_for("traffic", begin, LAST_WORDS)?;
        victim_node.kill();
        let killed = begin.elapsed();
        wait_for_promotion(successor)?;
        wait_for("life after the failover", Instant::now(), AFTERWARDS)?;
        stop.store(true, Ordering::Relaxed);
        let stories = clients.into_iter().map(|client| {
            let mut story = client.join().ok().context("a client has panicked")??;
            for (at, _) in &mut story.errors {
                *at = at.saturating_sub(killed);
            }
            Ok(story)
        });
        stories.collect::<Result<Vec<Story>>>()
    })?;
    victim_node.restart()?;
    cluster.wait_until_ready()?;
    Ok(tell(policy, &commands, &stories))
}

/// Sends a command again and again.
fn go_on(proxy: &Proxy, words: &str, begin: Instant, stop: &AtomicBool) -> Result<Story> {
    let mut session = proxy.connect()?;
    let mut story = Story::default();
    while !stop.load(Ordering::Relaxed) {
        let reply = session.ask(words)?;
        story.commands += 1;
        if reply.starts_with('-') {
            story.errors.push((begin.elapsed(), reply));
        }
        thread::sleep(PAUSE);
    }
    Ok(story)
}

fn tell(policy: &str, commands: &[(bool, bool, String)], stories: &[Story]) -> Vec<Sight> {
    let of = |in_victim: bool, write: bool| {
        let fits = move |(command, _): &(&(bool, bool, String), &Story)| {
            command.0 == in_victim && command.1 == write
        };
        commands.iter().zip(stories).filter(fits).map(|(_, story)| story)
    };
    for (command, story) in commands.iter().zip(stories) {
        let last = story.errors.last().map(|(at, error)| format!("{at:?} {error}"));
        eprintln!(
            "failover, {policy}: {} of {} {} failed; last: {last:?}",
            story.errors.len(),
            story.commands,
            command.2
        );
    }
    let late = |story: &Story| story.errors.iter().any(|(at, _)| *at > LAST_WORDS);
    let errors = |in_victim: bool, write: bool| {
        if of(in_victim, write).all(|story| story.errors.is_empty()) {
            "no error"
        } else {
            "errors"
        }
    };
    let writes = if of(true, true).any(late) {
        "errors until the failover and after it"
    } else {
        "none but what was in flight"
    };
    let others = [errors(false, false), errors(false, true)];
    let others = if others.contains(&"errors") { "errors" } else { "no error" };
    let asked = |what: &str| format!("read_policy {policy}, a primary killed with -9: {what}");
    let none = "none but what was in flight";
    vec![
        Sight::exactly(&asked("GETs in its shard"), "no error", errors(true, false)),
        Sight::exactly(&asked("SETs in its shard that fail"), none, writes),
        Sight::exactly(&asked("GETs and SETs in other shards"), "no error", others),
    ]
}

fn wait_for_promotion(successor: &RedisServer) -> Result<()> {
    until("a replica to be promoted", PATIENCE, || {
        let role = successor.cli(&["ROLE"])?;
        Ok(match role.starts_with("master") {
            true => Probe::Ready(()),
            false => Probe::NotYet(role.lines().next().unwrap_or_default().to_owned()),
        })
    })
}

/// Lets clients go on until so much time has passed.
fn wait_for(what: &str, since: Instant, time: Duration) -> Result<()> {
    until(what, time + PATIENCE, || {
        Ok(match since.elapsed() >= time {
            true => Probe::Ready(()),
            false => Probe::NotYet(String::new()),
        })
    })
}

/// Sets its flag when dropped.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
