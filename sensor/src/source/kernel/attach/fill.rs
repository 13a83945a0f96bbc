//! One interface: missing programs are put there, and those that are there are checked.

use super::{
    Attached,
    place::Place,
    seat::{Role, Seat, Standing},
    target::Target,
};
use crate::{
    config::HookChoice,
    model::Hook,
    source::kernel::{Error, books::Books, links::Link},
};

/// Puts missing programs on an interface, and checks those that are there. Gives why programs are missing.
pub(super) fn fill(
    attached: &mut Attached,
    mut place: Place<'_>,
    target: &Target<'_>,
    (not_xdp, mut notes): (Option<String>, Vec<String>),
    books: &Books,
) -> Vec<Error> {
    let mut errors = Vec::new();
    let recorded = attached
        .number
        .map(|number| books.interfaces.read(number).hooks[0]);
    let mut upload_before = recorded.map_or(Hook::None, Hook::from_number);
    let mut gone = None;
    match look_after(attached, &mut place, target.link, Role::Upload, &mut notes) {
        Ok(Some(reason)) => {
            attached.note_missing(Role::Upload, reason);
            gone = attached.take(Role::Upload);
            upload_before = gone.as_ref().map_or(Hook::None, |seat| seat.hook);
        }
        Ok(None) => {}
        Err(error) => errors.push(error),
    }
    let at_xdp = attached.hook(Role::Upload) == Hook::XdpNative;
    let is_blinded = target.choice == HookChoice::Auto && at_xdp && not_xdp.is_some();
    let by_filter = target.choice == HookChoice::Clsact;
    let is_other = |seat: &Seat, program| {
        matches!(seat.hook, Hook::Tcx | Hook::Clsact) && seat.program != program
    };
    let is_changed = attached.choice != target.choice || is_blinded;
    let needs = |seat: Option<&Seat>, program| {
        seat.is_none_or(|seat| is_changed || is_other(seat, program))
    };
    if let Some(program) = target.upload()
        && needs(attached.seat(Role::Upload), program)
    {
        let at_members = target.choice == HookChoice::XdpNative && target.link.is_bond();
        let seated = match at_members {
            true => Err(Error::Hook {
                interface: place.name.to_owned(),
                hook: Hook::XdpNative.name(),
                reason: super::AT_MEMBERS.to_owned(),
            }),
            false => place.seat_upload((target.choice, program), upload_before, not_xdp),
        };
        match seated {
            Ok(seat) => {
                say_put_back(&place, &seat, attached);
                attached.put(seat, gone);
                attached.choice = target.choice;
            }
            Err(error) => errors.push(error),
        }
    }

    let wanted = target.beside(attached.hook(Role::Upload), attached.way);
    for (role, program) in &wanted {
        let mut gone = None;
        match look_after(attached, &mut place, target.link, *role, &mut notes) {
            Ok(Some(reason)) => {
                attached.note_missing(*role, reason);
                gone = attached.take(*role);
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        let is_as_wanted = attached
            .seat(*role)
            .is_some_and(|seat| seat.program == *program && seat.by_filter == by_filter);
        if is_as_wanted {
            continue;
        }
        match place.seat_tc(*role, program, by_filter) {
            Ok(seat) => {
                say_put_back(&place, &seat, attached);
                attached.put(seat, gone);
            }
            Err(error) => errors.push(error),
        }
    }
    if target.upload().is_none() && errors.is_empty() {
        attached.choice = target.choice;
    }
    let is_unwanted = |seat: &mut Seat| {
        seat.role != Role::Upload && !wanted.iter().any(|(role, _)| *role == seat.role)
    };
    for seat in attached.seats.extract_if(.., is_unwanted) {
        place.unseat(&seat);
    }
    // Of some kinds of filters several are listed that are one to a person.
    notes.dedup();
    for note in &notes {
        if !attached.notes.contains(note) {
            tracing::warn!("interface {}: {note}", attached.interface);
        }
    }
    attached.notes = notes;
    errors
}

fn say_put_back(place: &Place<'_>, seat: &Seat, attached: &mut Attached) {
    let of_role = |(role, _): &mut (Role, String)| *role == seat.role;
    for (role, reason) in attached.missing.extract_if(.., of_role) {
        tracing::warn!(
            "interface {}: the {} program was missing ({reason}); it is there again, at {}",
            place.name,
            role.name(),
            seat.hook.name()
        );
    }
}

/// Looks whether a program that was put on an interface is there. If other programs stand before it, it is
/// put first, once. Gives why it is missing.
fn look_after(
    attached: &mut Attached,
    place: &mut Place<'_>,
    link: &Link,
    role: Role,
    notes: &mut Vec<String>,
) -> Result<Option<String>, Error> {
    let Some(at) = attached.seats.iter().position(|seat| seat.role == role) else {
        return Ok(None);
    };
    let standing = |place: &mut Place<'_>, seat: &Seat| {
        place.standing(seat, link).map_err(|source| Error::Look {
            interface: place.name.to_owned(),
            source,
        })
    };
    let (mut before, can_move) = match standing(place, &attached.seats[at])? {
        Standing::Missing(reason) => return Ok(Some(reason)),
        Standing::Sound { before, can_move } => (before, can_move),
    };
    let seat = &attached.seats[at];
    if !before.is_empty() && can_move && !seat.moved {
        let (program, by_filter) = (seat.program, seat.by_filter);
        if seat.hook == Hook::Clsact {
            // The kernel puts a new filter first, and leaves one that is replaced where it is.
            place.unseat(seat);
        }
        let mut seat = place.seat_tc(role, program, by_filter)?;
        seat.moved = true;
        tracing::warn!(
            "interface {}: {} came before the {} program, which was put first again",
            place.name,
            before.join(", "),
            role.name()
        );
        let at = attached.put(seat, None);
        before = match standing(place, &attached.seats[at])? {
            Standing::Missing(reason) => return Ok(Some(reason)),
            Standing::Sound { before, .. } => before,
        };
    }
    notes.extend(before.iter().map(|other| {
        format!(
            "{other} stands before the {} program: what it drops, redirects or ends the chain with \
             (TCX_PASS, TC_ACT_OK) is neither counted nor filtered",
            role.name()
        )
    }));
    Ok(None)
}
