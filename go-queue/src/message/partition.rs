//! Which partition a key goes to: murmur2 as Kafka's Java client computes it, so that keys keep their partition when a
//! topic moves to Kafka (librdkafka calls it `murmur2_random`).

/// Murmur2 with Kafka's seed. Source: `org.apache.kafka.common.utils.Utils.murmur2`.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // The reference works in 32 bits; longer keys wrap there as well.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference takes the length modulo 2^32"
    )]
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let tail = words.remainder();
    for (i, byte) in tail.iter().enumerate().rev() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !tail.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `partitions`, as Kafka's default partitioner chooses it.
///
/// `partitions` of zero counts as one.
pub fn of_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_agrees_with_kafkas_own_test_vectors() {
        // From Kafka's UtilsTest.testMurmur2.
        let vectors: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (key, want) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), want, "{key:?}");
        }
    }

    #[test]
    fn a_partition_is_always_one_of_them() {
        for n in 0..50_u32 {
            assert!(of_key(&n.to_le_bytes(), 8) < 8);
            assert_eq!(of_key(&n.to_le_bytes(), 0), 0);
        }
    }
}
