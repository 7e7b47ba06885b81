// Writes each pixel of a texture as a word: blue, green, red and alpha, from the lowest byte up.

@group(0) @binding(0) var picture: texture_2d<f32>;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = textureDimensions(picture);
    if id.x < size.x && id.y < size.y {
        let pixel = textureLoad(picture, vec2<i32>(id.xy), 0);
        words[id.y * size.x + id.x] = pack4x8unorm(pixel.bgra);
    }
}
