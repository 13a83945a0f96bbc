//! Host names: what may be taken for one.
