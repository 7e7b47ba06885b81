// The CRC-32 (IEEE) of blocks of a buffer, one block by each workgroup, at any offset and of any length.
//
// Without its initial and its final inversion a CRC is linear: that of a block is the sum (xor) of those of its words, each
// advanced by as many zeros as follow it. So thread t takes the words t, t + 256, t + 512 and so on, and advances what it
// has by 256 words at a time, with a table for each byte. In the end it advances that by the words that follow its last one,
// with matrices, and all are added.
//
// A block is taken to end with a whole row of words. What that has before the block's first byte is zero, which such a CRC does
// not see.

struct Block {
    // Where it begins in `words`, in bytes.
    offset: u32,
    // How many bytes it has, one at least.
    len: u32,
}

@group(0) @binding(0) var<storage, read> words: array<u32>;
// 4 x 256 words: what a byte of a word becomes that is advanced by a row. Then 9 x 32: what a bit becomes that is
// advanced by 1, 2, 4 and so on to 256 words.
@group(0) @binding(1) var<storage, read> tables: array<u32>;
@group(0) @binding(2) var<storage, read> blocks: array<Block>;
@group(0) @binding(3) var<storage, read_write> crcs: array<u32>;

const THREADS: u32 = 256u;
const MATRICES: u32 = 1024u;
const ONES: u32 = 0xffffffffu;

var<workgroup> row: array<u32, 1024>;
var<workgroup> sum: atomic<u32>;

// `count` bytes, 1 to 4, from a byte on, the first one lowest.
fn bytes(start: u32, count: u32) -> u32 {
    let shift = (start & 3u) * 8u;
    var found = words[start >> 2u] >> shift;
    if (start & 3u) + count > 4u {
        found |= words[(start >> 2u) + 1u] << (32u - shift);
    }
    return found & (ONES >> (32u - 8u * count));
}

// The word of a block that begins `back` bytes before its end, with the first four bytes of the block inverted: that is how a
// CRC-32 begins.
fn word(block: Block, back: u32) -> u32 {
    if back > block.len {
        let before = back - block.len;
        if before >= 4u {
            return 0u;
        }
        return (bytes(block.offset, 4u - before) << (8u * before)) ^ (ONES << (8u * before));
    }
    let after = block.len - back;
    let found = bytes(block.offset + after, 4u);
    if after >= 4u {
        return found;
    }
    return found ^ (ONES >> (8u * after));
}

fn by_a_row(crc: u32) -> u32 {
    return row[crc & 255u] ^ row[256u + ((crc >> 8u) & 255u)]
        ^ row[512u + ((crc >> 16u) & 255u)] ^ row[768u + (crc >> 24u)];
}

fn by_words(crc: u32, count: u32) -> u32 {
    var advanced = crc;
    for (var power = 0u; power < 9u; power += 1u) {
        if ((count >> power) & 1u) == 1u {
            var next = 0u;
            for (var bit = 0u; bit < 32u; bit += 1u) {
                next ^= tables[MATRICES + 32u * power + bit] * ((advanced >> bit) & 1u);
            }
            advanced = next;
        }
    }
    return advanced;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < MATRICES; i += THREADS) {
        row[i] = tables[i];
    }
    if thread == 0u {
        atomicStore(&sum, 0u);
    }
    workgroupBarrier();

    let block = blocks[group.x];
    let rows = (block.len + 4u * THREADS - 1u) / (4u * THREADS);
    var crc = 0u;
    for (var left = rows; left > 0u; left -= 1u) {
        crc = by_a_row(crc) ^ word(block, 4u * (THREADS * left - thread));
    }
    atomicXor(&sum, by_words(crc, THREADS - thread));
    workgroupBarrier();

    if thread == 0u {
        var crc = atomicLoad(&sum);
        if block.len < 4u {
            // Of the four inverted bytes, those that the block does not have.
            crc ^= ONES >> (8u * block.len);
        }
        crcs[group.x] = ~crc;
    }
}
