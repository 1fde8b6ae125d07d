//! The journal from outside: what was acknowledged is there, whatever happens to the folder.

mod damage;
mod lifecycle;
mod maintenance;
mod model;
mod old_journals;
mod parts;
mod search;
mod support;
