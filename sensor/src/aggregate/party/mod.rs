//! Who is on the other side of a flow: by the name that was seen, else by the address.
//!
//! A name leads to a [registrable domain](domain), and by the [lists] to an owner and a category;
//! an address leads to a country and a network, where [databases](networks) are configured. What
//! has no name is told apart by the reason why ([hidden]).

pub mod domain;
pub mod embedded;
pub mod hidden;
pub mod lists;
pub mod look;
pub mod networks;
