// Covers everything with one colour.

@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    let x = f32(i32(index & 1u) * 4 - 1);
    let y = f32(i32(index >> 1u) * 4 - 1);
    return vec4<f32>(x, y, 0.0, 1.0);
}

@fragment
fn colour() -> @location(0) vec4<f32> {
    return vec4<f32>(1.0, 0.2, 0.4, 0.6);
}
