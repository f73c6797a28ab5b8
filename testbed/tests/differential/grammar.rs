//! What clients may say: commands drawn by chance from templates.

use slotmesh_testbed::wire::read_reply;

/// One command, and how replies to it are compared.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) words: Vec<String>,
    pub(crate) comparison: Comparison,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Comparison {
    /// Byte for byte.
    Exact,
    /// Elements in any order: those of a set or hash have none, each server hashes by a seed of its own.
    Unordered,
    /// Errors up to the code word: nodes word it for what they are. All else byte for byte.
    ErrorCode,
}

/// An endless conversation, the same for the same seed.
pub(crate) struct Script {
    state: u64,
    /// Steps that are decided already, the next one last.
    decided: Vec<Step>,
}

/// Templates. `K` is a key of a few that share a slot, `A` one of any slot, `M` a member, `V` a value,
/// `I` a small integer, `F` a number with a fraction.
const TEMPLATES: &[&str] = &[
    // Strings.
    "SET K V",
    "SET K I",
    "SET K V NX",
    "SET K V XX GET",
    "SET K V EXAT 33177117420",
    "GET K",
    "GET A",
    "SET A V",
    "GETSET K V",
    "GETDEL K",
    "GETEX K PERSIST",
    "GETEX K",
    "APPEND K V",
    "STRLEN K",
    "SETNX K V",
    "SETRANGE K 3 V",
    "GETRANGE K 0 I",
    "SUBSTR K 0 I",
    "INCR K",
    "DECR K",
    "INCRBY K I",
    "DECRBY K I",
    "INCRBYFLOAT K F",
    "MSETNX K V K V",
    "SETEX K 0 V",
    "PSETEX K I",
    "LCS K K",
    "LCS K K LEN",
    "MSET A V A V A V",
    "MGET A A A A",
    "MGET K K",
    "DEL A A A",
    "UNLINK A A",
    "EXISTS A A A A",
    "TOUCH A A",
    "MSET A V A",
    // Bits.
    "SETBIT K I 1",
    "GETBIT K I",
    "BITCOUNT K",
    "BITCOUNT K 0 -1 BIT",
    "BITPOS K 1",
    "BITOP AND K K K",
    "BITOP NOT K K",
    "BITFIELD K SET u8 #1 I INCRBY i5 2 I GET u4 0",
    "BITFIELD_RO K GET u8 0",
    "BITOP NOT K K K",
    // Keys.
    "DEL K",
    "UNLINK K K",
    "EXISTS K K",
    "TYPE K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "PERSIST K",
    "EXPIREAT K 33177117420",
    "PEXPIREAT K 33177117420000 NX",
    "EXPIRETIME K",
    "PEXPIRETIME K",
    "TTL {k}nothing",
    "DUMP {k}nothing",
    "OBJECT ENCODING K",
    "OBJECT REFCOUNT {k}nothing",
    "TOUCH K",
    "EXPIRE K nonsense",
    "RESTORE K 0 nonsense",
    "SORT K",
    "SORT K ALPHA DESC LIMIT 0 2",
    "SORT K ALPHA STORE K",
    "SORT_RO K ALPHA",
    // Lists.
    "LPUSH K V V",
    "RPUSH K V",
    "RPUSH K I I I",
    "LPUSHX K V",
    "RPUSHX K V",
    "LPOP K",
    "RPOP K 2",
    "LLEN K",
    "LRANGE K 0 -1",
    "LINDEX K I",
    "LSET K 0 V",
    "LREM K 0 V",
    "LTRIM K 0 5",
    "LINSERT K BEFORE V V",
    "LPOS K V",
    "LPOS K V COUNT 0",
    "RPOPLPUSH K K",
    "LMOVE K K LEFT RIGHT",
    "LMPOP 2 K K LEFT",
    "BLPOP K 0.01",
    "BRPOP K K 0.01",
    "BLMOVE K K LEFT RIGHT 0.01",
    "BRPOPLPUSH K K 0.01",
    "BLMPOP 0.01 1 K LEFT",
    "LPOP K 0",
    "LMPOP 0 K LEFT",
    "BLPOP K nonsense",
    "BLPOP K -1",
    // Sets.
    "SADD K M M M",
    "SADD K I I",
    "SREM K M",
    "SCARD K",
    "SISMEMBER K M",
    "SMISMEMBER K M M",
    "SMOVE K K M",
    "?SMEMBERS K",
    "?SINTER K K",
    "?SUNION K K",
    "?SDIFF K K",
    "SINTERSTORE K K K",
    "SUNIONSTORE K K K",
    "SDIFFSTORE K K K",
    "SINTERCARD 2 K K",
    "SINTERCARD 2 K K LIMIT 1",
    "SINTERCARD x K",
    // Hashes.
    "HSET K M V M V",
    "HMSET K M V",
    "HSETNX K M V",
    "HGET K M",
    "HMGET K M M",
    "HDEL K M",
    "HLEN K",
    "HEXISTS K M",
    "HSTRLEN K M",
    "HINCRBY K M I",
    "HINCRBYFLOAT K M F",
    "?HKEYS K",
    "?HVALS K",
    "HSET K M",
    // Sorted sets.
    "ZADD K F M F M",
    "ZADD K NX CH F M",
    "ZADD K INCR F M",
    "ZINCRBY K F M",
    "ZREM K M",
    "ZCARD K",
    "ZSCORE K M",
    "ZMSCORE K M M",
    "ZRANK K M",
    "ZREVRANK K M",
    "ZRANGE K 0 -1",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZRANGE K -inf +inf BYSCORE LIMIT 0 2",
    "ZRANGEBYSCORE K -inf (5 WITHSCORES",
    "ZREVRANGE K 0 1",
    "ZREVRANGEBYSCORE K +inf -inf",
    "ZRANGEBYLEX K - +",
    "ZLEXCOUNT K - +",
    "ZCOUNT K 0 5",
    "ZPOPMIN K",
    "ZPOPMAX K 2",
    "ZREMRANGEBYRANK K 0 0",
    "ZREMRANGEBYSCORE K 0 1",
    "ZREMRANGEBYLEX K [a [b",
    "ZUNIONSTORE K 2 K K",
    "ZINTERSTORE K 2 K K AGGREGATE MAX",
    "ZDIFFSTORE K 2 K K",
    "ZUNION 2 K K WITHSCORES",
    "ZINTER 2 K K",
    "ZDIFF 2 K K WITHSCORES",
    "ZINTERCARD 2 K K",
    "ZRANGESTORE K K 0 1",
    "ZMPOP 1 K MIN",
    "BZPOPMIN K 0.01",
    "BZPOPMAX K K 0.01",
    "BZMPOP 0.01 2 K K MAX COUNT 2",
    "ZADD K nonsense M",
    // Geo.
    "GEOADD K 13.361389 38.115556 M",
    "GEOPOS K M",
    "GEODIST K M M km",
    "GEOHASH K M",
    "GEOSEARCH K FROMLONLAT 15 37 BYRADIUS 200 km ASC",
    "GEOSEARCHSTORE K K FROMLONLAT 15 37 BYBOX 400 400 km ASC",
    "GEORADIUS K 15 37 200 km WITHDIST ASC",
    "GEORADIUS K 15 37 200 km STORE K",
    "GEORADIUSBYMEMBER_RO K M 100 km ASC",
    // HyperLogLog.
    "PFADD K M M",
    "PFCOUNT K",
    "PFCOUNT K K",
    "PFMERGE K K",
    // Streams.
    "XADD K I-I M V",
    "XADD K NOMKSTREAM 99-1 M V",
    "XLEN K",
    "XRANGE K - +",
    "XREVRANGE K + - COUNT 2",
    "XDEL K I-I",
    "XTRIM K MAXLEN 3",
    "XREAD COUNT 2 STREAMS K 0",
    "XREAD STREAMS K K 0 0",
    "XREAD BLOCK 10 STREAMS K $",
    "XGROUP CREATE K group 0",
    "XGROUP CREATE K group 0 MKSTREAM",
    "XGROUP DESTROY K group",
    "XGROUP SETID K group $",
    "XGROUP CREATECONSUMER K group M",
    "XGROUP DELCONSUMER K group M",
    "XREADGROUP GROUP group M STREAMS K >",
    "XREADGROUP GROUP group M BLOCK 10 STREAMS K >",
    "XACK K group I-I",
    "XPENDING K group",
    "XCLAIM K group M 0 I-I JUSTID",
    "XAUTOCLAIM K group M 0 0 JUSTID",
    "XINFO GROUPS K",
    "XSETID K 99-9",
    // Scripts.
    "EVAL return{KEYS[1],ARGV[1],1,redis.call('EXISTS',KEYS[1])} 1 K V",
    "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 K V",
    "EVAL return(redis.call('INCR',KEYS[1])) 1 K",
    "EVAL return(redis.error_reply('MINE')) 1 K",
    "EVAL nonsense( 1 K",
    "EVAL_RO return(redis.call('GET',KEYS[1])) 1 K",
    "EVAL return(1) -1 K",
    "EVAL return(1) 5 K",
    // The connection.
    "PING",
    "PING V",
    "ECHO V",
    "CLIENT SETNAME M",
    "CLIENT GETNAME",
    "SELECT 0",
    "PING V V",
    "ECHO",
    "CLIENT SETNAME M M",
    "COMMAND COUNT",
    "COMMAND INFO GET",
    "COMMAND GETKEYS MSET A V A V",
    "?COMMAND LIST FILTERBY PATTERN x*d",
    "AUTH V",
    "AUTH default V",
    "HELLO 9",
    "CLIENT",
    "CLIENT NONSENSE",
    "OBJECT NONSENSE K",
    "XGROUP NONSENSE K",
    // Nonsense.
    "!NONSENSE K V",
    "GET",
    "SET K",
    "GET K K",
    "MSET",
    "LPUSH K",
    "EVAL",
    "OBJECT ENCODING",
    "!X\r\nY K",
];

/// What may stand in a transaction besides, or before one.
const TRANSACTIONS: &[&str] = &["EXEC", "DISCARD", "UNWATCH", "MULTI", "WATCH K", "EXEC V"];

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        Self { state, decided: Vec::new() }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn choose<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.below(among.len())]
    }

    fn fill(&mut self, template: &str) -> Step {
        let (comparison, template) = match template.as_bytes()[0] {
            b'?' => (Comparison::Unordered, &template[1..]),
            b'!' => (Comparison::ErrorCode, &template[1..]),
            _ => (Comparison::Exact, template),
        };
        let words = template.split(' ').map(|word| match word {
            "K" => format!("{{k}}{}", self.below(6)),
            "A" => format!("any:{}", self.below(12)),
            "M" => self.choose(&["a", "b", "c", "dd", "member"]).to_owned(),
            "V" => self.choose(&["", "v", "7", "some text", "\r\n$-1\r\n", "12.5"]).to_owned(),
            "I" => self.choose(&["0", "1", "2", "5", "-1", "13"]).to_owned(),
            "F" => self.choose(&["0.5", "1", "2.25", "-3", "1e3"]).to_owned(),
            "I-I" => format!("{}-{}", 1 + self.below(20), self.below(3)),
            other => other.to_owned(),
        });
        Step { words: words.collect(), comparison }
    }

    /// A transaction on keys of one slot; now and then a queue that ends in an odd way.
    fn decide_transaction(&mut self) {
        let keyed: Vec<&str> = TEMPLATES
            .iter()
            .copied()
            .filter(|template| !template.contains(" A") && !template.starts_with('?'))
            .filter(|template| !template.starts_with('!') && !template.starts_with("HELLO"))
            .collect();
        let mut templates = Vec::new();
        if self.below(3) == 0 {
            templates.push("WATCH K");
            if self.below(2) == 0 {
                templates.push("SET K V");
            }
        }
        templates.push("MULTI");
        for _ in 0..self.below(5) {
            templates.push(self.choose(&keyed));
        }
        if self.below(5) == 0 {
            templates.push(self.choose(TRANSACTIONS));
        }
        templates.push(if self.below(8) == 0 { "DISCARD" } else { "EXEC" });
        // Whatever happened, no transaction is open and nothing watched after these.
        templates.extend(["EXEC", "UNWATCH"]);
        let steps: Vec<_> = templates.iter().map(|template| self.fill(template)).collect();
        self.decided = steps.into_iter().rev().collect();
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.decided.is_empty() && self.below(15) == 0 {
            self.decide_transaction();
        }
        if let Some(step) = self.decided.pop() {
            return Some(step);
        }
        let template = self.choose(TEMPLATES);
        Some(self.fill(template))
    }
}

impl Comparison {
    /// What of a reply is compared.
    pub(crate) fn normalize(self, reply: &[u8]) -> Vec<u8> {
        match (self, reply.first()) {
            (Self::Unordered, Some(b'*' | b'~')) => {
                let mut rest = reply;
                let end = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let (header, elements) = rest.split_at(end);
                rest = elements;
                let mut sorted = Vec::new();
                while !rest.is_empty() {
                    sorted.push(read_reply(&mut rest).unwrap());
                }
                sorted.sort();
                [header.to_vec(), sorted.concat()].concat()
            }
            (Self::ErrorCode, Some(b'-')) => {
                reply.split(|byte| *byte == b' ').next().unwrap().to_vec()
            }
            _ => reply.to_vec(),
        }
    }
}
