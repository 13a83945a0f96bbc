//! The law of every type that crosses the boundary between kernel and user space.

/// A value whose bytes mean the same on both sides of a map.
///
/// # Safety
///
/// The type is `#[repr(C)]`, has no padding (equal values have equal bytes, which the kernel's
/// hash maps compare), holds no pointer, reference, `bool`, `char` or enum, and every bit pattern
/// is a value of it. [`wire!`](crate::wire!) checks the absence of padding at compile time.
pub unsafe trait Wire: Copy + 'static {}

/// Declares types to be [`Wire`], and refuses at compile time a type that has padding.
///
/// `wire!(Type { field: FieldType, … })` names every field with its type: their sizes must add up
/// to the size of the whole.
#[macro_export]
macro_rules! wire {
    ($($name:ident { $($field:ident: $of:ty),+ $(,)? })+) => {$(
        const _: () = {
            // Destructured, so that a field that is not named here does not compile.
            #[allow(clippy::no_effect_underscore_binding)]
            const fn _complete(value: $name) { let $name { $($field: _),+ } = value; }
            assert!(
                0 $(+ size_of::<$of>())+ == size_of::<$name>(),
                concat!(stringify!($name), " has padding, or a field's type is misstated"),
            );
        };
        // SAFETY: plain integers and arrays of them, `#[repr(C)]`, without padding as asserted.
        unsafe impl $crate::wire::Wire for $name {}
    )+};
}
