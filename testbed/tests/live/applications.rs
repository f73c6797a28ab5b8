//! What applications build on standard clients, and such applications, through the proxy.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::packages;
use crate::support::proxy::{PATIENCE, Proxy};
use redis::{Commands, Connection, Direction, RedisResult, Script, Value};
use slotmesh_testbed::process::Process;
use slotmesh_testbed::{TempDir, or_skip, process};

#[test]
fn transactions_locks_scripts_queues_and_iterators_of_redis_py_work() {
    in_turn(|proxy| proxy.run(packages::python("patterns.py")));
}

#[test]
fn transactions_redlock_scripts_queues_and_iterators_of_ioredis_work() {
    in_turn(|proxy| proxy.run(packages::node("ioredis-patterns.mjs")));
}

#[test]
fn transactions_locks_scripts_queues_and_iterators_of_node_redis_work() {
    in_turn(|proxy| proxy.run(packages::node("node-redis-patterns.mjs")));
}

#[test]
fn bullmq_works_off_jobs_with_delays_retries_and_children() {
    in_turn(|proxy| proxy.run(packages::node("bullmq.mjs")));
}

#[test]
fn a_worker_of_celery_works_off_tasks_chains_groups_and_chords() {
    in_turn(|proxy| {
        let role = |role: &str| {
            let mut command = packages::python("celery_queue.py")?;
            command.args([role, &proxy.host(), &proxy.port()]);
            Ok(command)
        };
        let worker = or_skip(role("worker"))?;
        let directory = TempDir::new("celery").unwrap();
        let worker = Process::start(worker, &directory.path().join("worker.log")).unwrap();
        if let Err(error) = process::run(role("client").unwrap(), PATIENCE) {
            panic!("{error:#}\n\nthe worker:\n{}", worker.log());
        }
        worker.terminate(PATIENCE).unwrap();
        Some(())
    });
}

#[test]
fn transactions_locks_scripts_queues_and_iterators_of_the_redis_crate_work_in_resp2() {
    use_patterns("", "redis-rs-resp2");
}

#[test]
fn transactions_locks_scripts_queues_and_iterators_of_the_redis_crate_work_in_resp3() {
    use_patterns("?protocol=resp3", "redis-rs-resp3");
}

/// Does one test after the other: they make all nodes forget their scripts, and a transaction that
/// uses one at that moment fails, as it does before one Redis.
fn in_turn(test: impl FnOnce(&Proxy) -> Option<()>) {
    static TURN: Mutex<()> = Mutex::new(());
    // Before the turn, so that the next test finds it running.
    let proxy = Proxy::start();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test(&proxy);
}

fn use_patterns(query: &str, name: &str) {
    in_turn(|proxy| {
        let connect = || proxy.connect(query);
        transactions(&mut connect(), &format!("{name}:transactions"));
        watched_keys(connect, &format!("{name}:watched_keys"));
        blocking_pops(connect, &format!("{name}:blocking_pops"));
        locks(connect, &format!("{name}:locks"));
        scripts(&mut connect(), &format!("{name}:scripts"));
        rate_limiter(connect, &format!("{name}:rate_limiter"));
        scans(&mut connect(), &format!("{name}:scans"));
        Some(())
    });
}

/// Keys in as many slots, and so on all nodes.
fn keys_of(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

/// Does `work` in four clients at the same time, and returns what each has returned.
fn together<T: Send>(
    connect: impl Fn() -> Connection,
    work: impl Fn(&mut Connection) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (mut connection, work) = (connect(), &work);
                scope.spawn(move || work(&mut connection))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn transactions(connection: &mut Connection, name: &str) {
    for key in keys_of(name, 20) {
        let replies: (Value, i64, String) =
            redis::pipe().atomic().set(&key, 1).incr(&key, 1).get(&key).query(connection).unwrap();
        assert_eq!(replies, (Value::Okay, 2, "2".to_owned()));
        let mut failing = redis::pipe();
        failing.atomic().incr(&key, 1).lpush(&key, "x").incr(&key, 1).ignore_errors();
        let replies: Vec<RedisResult<i64>> = failing.query(connection).unwrap();
        let [Ok(3), Err(error), Ok(4)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(error.code(), Some("WRONGTYPE"));
    }
}

fn watched_keys(connect: impl Fn() -> Connection, name: &str) {
    together(&connect, |connection| {
        for _ in 0..10 {
            // Tries again until no other client came in between.
            redis::transaction(connection, &[name], |connection, pipe| {
                let value: Option<u64> = connection.get(name)?;
                pipe.set(name, value.unwrap_or(0) + 1).query::<Option<()>>(connection)
            })
            .unwrap();
        }
    });
    assert_eq!(connect().get::<_, u64>(name).unwrap(), 40);
}

fn blocking_pops(connect: impl Fn() -> Connection, name: &str) {
    let connection = &mut connect();
    assert_eq!(connection.blpop::<_, Value>(name, 0.05).unwrap(), Value::Nil);
    let queues: Vec<String> = (0..3).map(|index| format!("{{{name}}}:{index}")).collect();
    let patience = PATIENCE.as_secs_f64() / 2.0;
    thread::scope(|scope| {
        let mut waiting = connect();
        let keys = &queues;
        let popped =
            scope.spawn(move || waiting.blpop::<_, (String, String)>(keys, patience).unwrap());
        connection.rpush::<_, _, ()>(&queues[2], "x").unwrap();
        assert_eq!(popped.join().unwrap(), (queues[2].clone(), "x".to_owned()));

        let mut waiting = connect();
        let moved = scope.spawn(move || {
            let (left, right) = (Direction::Left, Direction::Right);
            waiting.blmove::<_, _, String>(&keys[0], &keys[1], left, right, patience).unwrap()
        });
        connection.rpush::<_, _, ()>(&queues[0], "y").unwrap();
        assert_eq!(moved.join().unwrap(), "y");
    });
    let popped: (String, String) = connection.brpop(&queues, patience).unwrap();
    assert_eq!(popped, (queues[1].clone(), "y".to_owned()));

    // Each of 40 jobs goes to one of four workers.
    let feeder = connect();
    let done = thread::scope(|scope| {
        scope.spawn(move || {
            let mut feeder = feeder;
            for job in (0..40).chain([-1; 4]) {
                feeder.rpush::<_, _, ()>(name, job).unwrap();
            }
        });
        together(&connect, |worker| {
            let mut jobs: Vec<i64> = Vec::new();
            loop {
                match worker.blpop::<_, (String, i64)>(name, patience).unwrap() {
                    (_, -1) => return jobs,
                    (_, job) => jobs.push(job),
                }
            }
        })
    });
    let mut done = done.concat();
    done.sort_unstable();
    assert_eq!(done, Vec::from_iter(0..40));
}

fn locks(connect: impl Fn() -> Connection, name: &str) {
    let (lock, counter) = (format!("{name}:lock"), format!("{name}:counter"));
    let release = Script::new(
        "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0",
    );
    together(&connect, |connection| {
        let me: u64 = redis::cmd("CLIENT").arg("ID").query(connection).unwrap();
        let mut take = redis::cmd("SET");
        take.arg(&lock).arg(me).arg("NX").arg("PX").arg(PATIENCE.as_millis() as u64);
        let mut done = 0;
        while done < 5 {
            if take.query::<Value>(connection).unwrap() == Value::Nil {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            let value: Option<u64> = connection.get(&counter).unwrap();
            connection.set::<_, _, ()>(&counter, value.unwrap_or(0) + 1).unwrap();
            assert_eq!(release.key(&lock).arg(me).invoke::<u64>(connection).unwrap(), 1);
            done += 1;
        }
    });
    assert_eq!(connect().get::<_, u64>(counter).unwrap(), 20);
}

fn scripts(connection: &mut Connection, name: &str) {
    let append = Script::new("return redis.call('APPEND', KEYS[1], ARGV[1])");
    let keys = keys_of(name, 20);
    for length in [3, 6] {
        for key in &keys {
            assert_eq!(append.key(key).arg("abc").invoke::<u64>(connection).unwrap(), length);
        }
        // Now it is unknown to each node and has to be told again.
        redis::cmd("SCRIPT").arg("FLUSH").exec(connection).unwrap();
    }
    append.prepare_invoke().load(connection).unwrap();
    let mut pipe = redis::pipe();
    for key in &keys {
        pipe.invoke_script(append.key(key).arg("abc"));
    }
    assert_eq!(pipe.query::<Vec<u64>>(connection).unwrap(), [9; 20]);
}

/// At most so many calls in a window that begins with the first.
fn rate_limiter(connect: impl Fn() -> Connection, name: &str) {
    let allowed = Script::new(
        "local calls = redis.call('INCR', KEYS[1])
         if calls == 1 then
           redis.call('PEXPIRE', KEYS[1], ARGV[2])
         end
         return calls <= tonumber(ARGV[1])",
    );
    for user in keys_of(name, 5) {
        let window = PATIENCE.as_millis() as u64;
        let calls = together(&connect, |connection| -> usize {
            let call = |_: &usize| {
                allowed.key(&user).arg(7).arg(window).invoke::<Option<bool>>(connection).unwrap()
                    == Some(true)
            };
            (0..5).filter(call).count()
        });
        assert_eq!(calls.iter().sum::<usize>(), 7);
    }
}

fn scans(connection: &mut Connection, name: &str) {
    let mut keys = keys_of(name, 300);
    keys.sort_unstable();
    let pairs: Vec<(&String, &str)> = keys.iter().map(|key| (key, "x")).collect();
    connection.mset::<_, _, ()>(&pairs).unwrap();
    let found = connection.scan_match::<_, String>(format!("{name}:*")).unwrap();
    let mut found: Vec<String> = found.collect::<RedisResult<_>>().unwrap();
    found.sort_unstable();
    assert_eq!(found, keys);

    let set = format!("{{{name}}}:set");
    connection.sadd::<_, _, ()>(&set, &keys).unwrap();
    let members = connection.sscan::<_, String>(&set).unwrap();
    let mut members: Vec<String> = members.collect::<RedisResult<_>>().unwrap();
    members.sort_unstable();
    assert_eq!(members, keys);
}
