//! What the shader of fingerprints looks up: how a CRC-32 changes by the zeros that follow it.
//!
//! Without its inversions a CRC-32 is linear in its bits, so what some zeros make of it is a matrix: 32 words, what each of its
//! bits becomes. The matrix of twice as many zeros is the square.

/// The polynomial of CRC-32 (IEEE 802.3), its lowest power in the highest bit.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// How many matrices the shader has: of 1, 2, 4 and so on to 256 words of zeros.
const MATRICES: usize = 9;

/// How many words they are.
pub(super) const LEN: usize = 4 * 256 + 32 * MATRICES;

type Matrix = [u32; 32];

/// What each byte of a word becomes by 256 words of zeros, the lowest byte first; then the matrices.
pub(super) fn tables() -> Vec<u32> {
    let mut matrices = vec![by_a_word()];
    for power in 1..MATRICES {
        matrices.push(squared(&matrices[power - 1]));
    }
    let row = &matrices[MATRICES - 1];
    let bytes = (0..4).flat_map(|byte| (0..256u32).map(move |value| value << (8 * byte)));
    bytes.map(|bits| by(row, bits)).chain(matrices.iter().flatten().copied()).collect()
}

fn by_a_word() -> Matrix {
    std::array::from_fn(|bit| {
        (0..32).fold(1 << bit, |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

fn by(matrix: &Matrix, crc: u32) -> u32 {
    let bits = matrix.iter().enumerate().filter(|(bit, _)| crc >> bit & 1 == 1);
    bits.fold(0, |sum, (_, becomes)| sum ^ becomes)
}

fn squared(matrix: &Matrix) -> Matrix {
    matrix.map(|becomes| by(matrix, becomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CRC-32 by the tables alone, as each thread of the shader takes it: a word, and then so many of zeros.
    fn followed_by_zeros(word: u32, words: usize) -> u32 {
        let tables = tables();
        let mut crc = !word;
        for power in 0..MATRICES {
            if ((words + 1) >> power) & 1 == 1 {
                let matrix = &tables[1024 + 32 * power..][..32];
                crc = by(matrix.try_into().expect("a matrix"), crc);
            }
        }
        !crc
    }

    #[test]
    fn zeros_change_a_crc_as_the_matrices_say() {
        for word in [0u32, 1, 0x8000_0000, 0xDEAD_BEEF, u32::MAX] {
            for words in [0, 1, 2, 3, 100, 255, 510] {
                let mut bytes = word.to_le_bytes().to_vec();
                bytes.resize(4 + 4 * words, 0);
                assert_eq!(followed_by_zeros(word, words), crc32fast::hash(&bytes));
            }
        }
    }

    #[test]
    fn a_row_by_its_bytes_is_the_last_matrix() {
        let tables = tables();
        assert_eq!(tables.len(), LEN);
        let last: Matrix = tables[LEN - 32..].try_into().expect("a matrix");
        for word in [0u32, 1, 0x1234_5678, 0xDEAD_BEEF, u32::MAX] {
            let bytes = word.to_le_bytes();
            let by_bytes = (0..4).fold(0, |sum, i| sum ^ tables[256 * i + bytes[i] as usize]);
            assert_eq!(by_bytes, by(&last, word));
        }
    }
}
