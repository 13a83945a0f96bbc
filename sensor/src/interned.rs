//! Values that many entries of a table share, each kept once: an entry holds a number of four bytes.

use std::{collections::HashMap, hash::Hash, num::NonZeroU32, sync::Arc};

/// The number of a value in its [`Interned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(NonZeroU32);

impl Number {
    fn of(place: usize) -> Option<Self> {
        let number = u32::try_from(place).ok()?.checked_add(1)?;
        NonZeroU32::new(number).map(Self)
    }

    const fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Values by their numbers, each with the count of entries that hold it. A value that no entry holds is
/// dropped, and its number is used again.
#[derive(Debug)]
pub struct Interned<T: ?Sized> {
    numbers: HashMap<Arc<T>, Number>,
    /// `None`: the number is free.
    values: Vec<Option<Held<T>>>,
    free: Vec<Number>,
}

#[derive(Debug)]
struct Held<T: ?Sized> {
    value: Arc<T>,
    entries: u32,
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            values: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T: Eq + Hash + ?Sized> Interned<T> {
    /// The number of a value, which one more entry holds from now on; `None` where there are 2³² values.
    pub fn hold(&mut self, value: &Arc<T>) -> Option<Number> {
        if let Some(number) = self.numbers.get(value).copied() {
            if let Some(Some(held)) = self.values.get_mut(number.place()) {
                held.entries += 1;
            }
            return Some(number);
        }
        let held = Some(Held {
            value: Arc::clone(value),
            entries: 1,
        });
        let number = match self.free.pop() {
            Some(number) => {
                self.values[number.place()] = held;
                number
            }
            None => {
                let number = Number::of(self.values.len())?;
                self.values.push(held);
                number
            }
        };
        self.numbers.insert(Arc::clone(value), number);
        Some(number)
    }

    /// The value with a number that an entry holds.
    pub fn get(&self, number: Number) -> Option<&Arc<T>> {
        let held = self.values.get(number.place())?.as_ref()?;
        Some(&held.value)
    }

    /// Takes that an entry holds a value no longer.
    pub fn release(&mut self, number: Number) {
        const FEW: usize = 1_024;

        let Some(place) = self.values.get_mut(number.place()) else {
            return;
        };
        let Some(held) = place.as_mut() else {
            return;
        };
        held.entries -= 1;
        if held.entries > 0 {
            return;
        }
        if let Some(held) = place.take() {
            self.numbers.remove(&held.value);
            self.free.push(number);
        }
        if self.numbers.is_empty() && self.values.len() > FEW {
            *self = Self::default();
        } else if self.numbers.capacity() > 4 * self.numbers.len().max(FEW) {
            self.numbers.shrink_to_fit();
        }
    }

    /// How many different values there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no entry holds a value.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_once_as_long_as_an_entry_holds_it() {
        let mut names: Interned<str> = Interned::default();
        let first = names.hold(&Arc::from("a.example")).expect("there is room");
        let again = names.hold(&Arc::from("a.example")).expect("there is room");
        let other = names.hold(&Arc::from("b.example")).expect("there is room");
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert_eq!(names.len(), 2);
        names.release(first);
        assert_eq!(names.get(first).map(|name| &**name), Some("a.example"));
        names.release(again);
        assert_eq!(names.get(first), None);
        assert_eq!(names.get(other).map(|name| &**name), Some("b.example"));
        // Its number is used again.
        let third = names.hold(&Arc::from("c.example")).expect("there is room");
        assert_eq!((third, names.len(), names.values.len()), (first, 2, 2));
        names.release(other);
        names.release(third);
        assert!(names.is_empty());
    }

    #[test]
    fn values_that_are_gone_leave_no_memory() {
        let mut names: Interned<str> = Interned::default();
        let numbers: Vec<_> = (0..100_000)
            .map(|number| names.hold(&number.to_string().into()).expect("room"))
            .collect();
        let few = numbers.len() - 10;
        for number in &numbers[..few] {
            names.release(*number);
        }
        assert!(names.numbers.capacity() <= 8_192);
        for number in &numbers[few..] {
            names.release(*number);
        }
        assert_eq!((names.values.capacity(), names.free.capacity()), (0, 0));
    }
}
