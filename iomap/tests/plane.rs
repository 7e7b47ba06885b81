//! Planes against a pixel-by-pixel model.

use iomap::{BufMap, Plane, PlaneError, Planes, Rect};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    pitch: usize,
    row_bytes: usize,
    rows: usize,
}

fn shape() -> impl Strategy<Value = Shape> {
    (0usize..40, 0usize..40, 0usize..12).prop_map(|(a, b, rows)| Shape {
        pitch: a.max(b),
        row_bytes: a.min(b),
        rows,
    })
}

fn rect() -> impl Strategy<Value = Rect> {
    (0usize..30, 0usize..10, 0usize..30, 0usize..10).prop_map(|(x, y, width, height)| Rect {
        x,
        y,
        width,
        height,
    })
}

fn fits(shape: Shape, rect: Rect) -> bool {
    rect.x + rect.width <= shape.row_bytes && rect.y + rect.height <= shape.rows
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 2) as u8 ^ i as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// A rectangle of one plane into a rectangle of another, of whatever pitch.
    #[test]
    fn rectangles(src in shape(), dst in shape(), from in rect(), to in rect()) {
        let to = Rect { width: from.width, height: from.height, ..to };
        let source = noise(src.pitch * src.rows);
        let mut bytes = vec![0xee; dst.pitch * dst.rows];
        let mut model = bytes.clone();
        let src_plane = Plane::new(BufMap::from_slice(&source), src.pitch, src.row_bytes, src.rows).unwrap();
        let dst_plane =
            Plane::new(BufMap::from_mut_slice(&mut bytes), dst.pitch, dst.row_bytes, dst.rows).unwrap();
        let done = src_plane.rect(from).and_then(|src| dst_plane.rect(to)?.copy_from(&src));
        prop_assert_eq!(done.is_ok(), fits(src, from) && fits(dst, to));
        if done.is_ok() {
            for (y, x) in (0..from.height).flat_map(|y| (0..from.width).map(move |x| (y, x))) {
                model[(to.y + y) * dst.pitch + to.x + x] = source[(from.y + y) * src.pitch + from.x + x];
            }
        }
        prop_assert_eq!(bytes, model);
    }

    /// Two rectangles of one plane, which may overlap.
    #[test]
    fn within_a_plane(shape in shape(), from in rect(), to in rect(), byte in any::<u8>()) {
        let to = Rect { width: from.width, height: from.height, ..to };
        let mut bytes = noise(shape.pitch * shape.rows);
        let before = bytes.clone();
        let mut model = bytes.clone();
        let map = BufMap::from_mut_slice(&mut bytes);
        let plane = Plane::new(map, shape.pitch, shape.row_bytes, shape.rows).unwrap();
        if fits(shape, from) && fits(shape, to) {
            plane.rect(to).unwrap().copy_from(&plane.rect(from).unwrap()).unwrap();
            for (y, x) in (0..from.height).flat_map(|y| (0..from.width).map(move |x| (y, x))) {
                model[(to.y + y) * shape.pitch + to.x + x] =
                    before[(from.y + y) * shape.pitch + from.x + x];
            }
            plane.rect(from).unwrap().fill(byte).unwrap();
            for (y, x) in (0..from.height).flat_map(|y| (0..from.width).map(move |x| (y, x))) {
                model[(from.y + y) * shape.pitch + from.x + x] = byte;
            }
        }
        prop_assert_eq!(bytes, model);
    }

    /// Any numbers at all: refused or inside the map, never a panic.
    #[test]
    fn any_numbers(pitch: usize, row_bytes: usize, rows: usize, x: usize, y: usize, width: usize, height: usize) {
        let map = BufMap::from_slice(&[0; 64]);
        for (pitch, row_bytes, rows) in [(pitch, row_bytes, rows), (pitch, 0, rows), (pitch, pitch, 0)] {
            if let Ok(plane) = Plane::new(map, pitch, row_bytes, rows) {
                if let Ok(part) = plane.rect(Rect { x, y, width, height }) {
                    prop_assert!(part.row(part.rows()).is_err());
                }
                prop_assert!(plane.row(usize::MAX).is_err());
            }
        }
    }
}

#[test]
fn refusals() {
    let mut bytes = [0; 64];
    let map = BufMap::from_mut_slice(&mut bytes);
    let plane = |pitch, row_bytes, rows| Plane::new(map, pitch, row_bytes, rows);
    assert_eq!(plane(7, 8, 1).unwrap_err(), PlaneError::Pitch { pitch: 7, row_bytes: 8 });
    assert!(plane(16, 16, 4).is_ok());
    assert!(plane(20, 4, 4).is_ok(), "the last row is not padded");
    assert!(matches!(plane(20, 5, 4), Err(PlaneError::TooShort { .. })));
    assert!(matches!(plane(usize::MAX, 1, 3), Err(PlaneError::TooShort { .. })));
    let (a, b) = (plane(8, 4, 4).unwrap(), plane(10, 4, 4).unwrap());
    assert_eq!(a.copy_from(&b), Err(PlaneError::Overlap { src: 10, dst: 8 }));
    let b = plane(8, 5, 4).unwrap();
    assert_eq!(a.copy_from(&b), Err(PlaneError::Shape { src: (5, 4), dst: (4, 4) }));
}

/// Nothing is copied if a later plane does not fit.
#[test]
fn pictures_are_checked_first() {
    let (ones, mut zeros) = ([1; 64], [0; 64]);
    let planes = |map: BufMap<'static>, last| {
        let (a, b) = map.split_at(32).unwrap();
        Planes::new(&[Plane::packed(a, 8, 4).unwrap(), Plane::packed(b, 8, last).unwrap()]).unwrap()
    };
    let source: &'static [u8] = Vec::leak(ones.to_vec());
    let target: &'static mut [u8] = Vec::leak(zeros.to_vec());
    let target = BufMap::from_mut_slice(target);
    let (src, dst) = (planes(BufMap::from_slice(source), 4), planes(target, 4));
    assert!(matches!(planes(target, 3).copy_from(&src), Err(PlaneError::Shape { .. })));
    target.copy_to_slice(0, &mut zeros).unwrap();
    assert_eq!(zeros, [0; 64]);
    dst.copy_from(&src).unwrap();
    target.copy_to_slice(0, &mut zeros).unwrap();
    assert_eq!(zeros, ones);
    assert!(matches!(Planes::new(&[]), Err(PlaneError::Count { got: 0, .. })));
    let one = *src.get(0).unwrap();
    assert!(matches!(Planes::new(&[one; 5]), Err(PlaneError::Count { got: 5, .. })));
    assert!(matches!(Planes::new(&[one]).unwrap().copy_from(&src), Err(PlaneError::Count { .. })));
    assert_eq!((src.len(), src.get(2).is_none()), (2, true));
}
