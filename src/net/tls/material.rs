//! What is made from keys and certificates, made anew when they change: a renewed certificate must not need a restart.
//!
//! The texts are compared, not times: tools that renew certificates swap links, and times go back with them. Whoever is using
//! what was made before keeps it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::config::{BuildError, Place, Secret};

/// The files are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Make<T> = Box<dyn Fn(&[String]) -> Result<T, String> + Send + Sync>;

/// Something that is made from secrets.
pub(super) struct Material<T> {
    place: Place,
    secrets: Vec<Secret>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    made: Arc<T>,
    /// What was read last, whether or not something could be made of it.
    last: Result<Vec<String>, String>,
    looked_at: Instant,
}

impl<T: Send + Sync + 'static> Material<T> {
    /// Reads the secrets, and makes it for the first time.
    pub(super) fn new(
        place: &Place,
        secrets: Vec<Secret>,
        make: impl Fn(&[String]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Material<T>, BuildError> {
        let texts = secrets.iter().map(Secret::fetch).collect::<Result<Vec<_>, _>>()?;
        let made = make(&texts).map_err(BuildError::Tls)?;
        let state = State { made: Arc::new(made), last: Ok(texts), looked_at: Instant::now() };
        Ok(Material { place: place.clone(), secrets, make: Box::new(make), state: Mutex::new(state) })
    }

    /// What is made of the secrets as they are now; of the last ones that were good where they are not. Reads files.
    pub(super) fn look(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() < LOOK_EVERY {
            return state.made.clone();
        }
        state.looked_at = Instant::now();
        let now =
            self.secrets.iter().map(Secret::fetch).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string());
        if now == state.last {
            return state.made.clone();
        }
        let Place { channel, name, .. } = &self.place;
        match now.as_ref().map_err(String::clone).and_then(|texts| (self.make)(texts)) {
            Ok(made) => {
                info!(channel, connector = name, "the certificates have changed; new connections use the new ones");
                state.made = Arc::new(made);
            }
            Err(error) => error!(
                channel,
                connector = name,
                error,
                "the certificates have changed, and the new ones cannot be used: the old ones stay in use"
            ),
        }
        state.last = now;
        state.made.clone()
    }
}

/// Shows no secret.
impl<T> fmt::Debug for Material<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Material").field(&self.secrets).finish()
    }
}
