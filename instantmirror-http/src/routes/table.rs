//! [`Table`]: routes that were checked against each other, and the tree that finds the one for a path.
//!
//! [`Table::find`] compares a path component by component: a literal wins over a parameter, a parameter over a rest.
//! It allocates nothing.

use std::collections::BTreeMap;

use http::Method;

use super::pattern::{PARAMETERS_MAX, Pattern, Relation, Segment};
use super::{RouteEntry, RouteError};

/// A route, and what answers it.
#[derive(Debug)]
pub(crate) struct Row<E> {
    pub(crate) entry: RouteEntry,
    pub(super) pattern: Pattern,
    pub(crate) endpoint: E,
}

/// Routes by path and method.
#[derive(Debug)]
pub(crate) struct Table<E> {
    rows: Vec<Row<E>>,
    places: Vec<Place>,
    root: Branch,
}

/// The routes of one pattern, one of each method.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    get: Option<usize>,
    post: Option<usize>,
}

/// What may follow the components so far.
#[derive(Debug, Clone, Default)]
struct Branch {
    literals: BTreeMap<Box<str>, Branch>,
    parameter: Option<Box<Branch>>,
    rest: Option<usize>,
    /// The place of the pattern that ends here.
    here: Option<usize>,
}

/// What a path was found to mean.
#[derive(Debug)]
pub(crate) struct Found<'t, 'p, E> {
    table: &'t Table<E>,
    place: Place,
    values: Values<'p>,
}

/// The values of the parameters on the way.
#[derive(Debug, Clone, Copy, Default)]
struct Values<'p> {
    values: [&'p str; PARAMETERS_MAX],
    count: usize,
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            places: Vec::new(),
            root: Branch::default(),
        }
    }
}

impl<E> Table<E> {
    /// Checks routes against each other.
    pub(crate) fn build(routes: impl IntoIterator<Item = (RouteEntry, E)>) -> Result<Self, RouteError> {
        let mut table = Self::default();
        for (entry, endpoint) in routes {
            let pattern = Pattern::parse(&entry.path).map_err(|reason| RouteError::Pattern {
                route: Box::new(entry.clone()),
                reason,
            })?;
            table.add(Row {
                entry,
                pattern,
                endpoint,
            })?;
        }
        Ok(table)
    }

    fn add(&mut self, row: Row<E>) -> Result<(), RouteError> {
        for other in &self.rows {
            let both = || (Box::new(other.entry.clone()), Box::new(row.entry.clone()));
            match other.pattern.relation(&row.pattern) {
                Relation::Same if other.entry.method == row.entry.method => {
                    let (first, second) = both();
                    return Err(RouteError::Duplicate { first, second });
                }
                Relation::Ambiguous => {
                    let (first, second) = both();
                    return Err(RouteError::Ambiguous { first, second });
                }
                Relation::Same | Relation::Ordered | Relation::Disjoint => {}
            }
        }
        let slot = self.root.slot(&row.pattern);
        let number = *slot.get_or_insert(self.places.len());
        if number == self.places.len() {
            self.places.push(Place::default());
        }
        let place = &mut self.places[number];
        let of_method = if row.entry.method == Method::POST {
            &mut place.post
        } else {
            &mut place.get
        };
        *of_method = Some(self.rows.len());
        self.rows.push(row);
        Ok(())
    }

    /// The same routes, answered by something else.
    pub(super) fn map<F>(&self, endpoint: impl Fn(&E) -> F) -> Table<F> {
        let rows = self.rows.iter().map(|row| Row {
            entry: row.entry.clone(),
            pattern: row.pattern.clone(),
            endpoint: endpoint(&row.endpoint),
        });
        Table {
            rows: rows.collect(),
            places: self.places.clone(),
            root: self.root.clone(),
        }
    }

    /// The routes, in the order in which they were added.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &RouteEntry> {
        self.rows.iter().map(|row| &row.entry)
    }

    /// The routes of a path: decoded, without the slashes at both ends.
    pub(crate) fn find<'t, 'p>(&'t self, path: &'p str) -> Option<Found<'t, 'p, E>> {
        let mut values = Values::default();
        let number = self
            .root
            .find(Some(path).filter(|path| !path.is_empty()), &mut values)?;
        let place = *self.places.get(number)?;
        Some(Found {
            table: self,
            place,
            values,
        })
    }
}

impl Branch {
    /// Where the place of a pattern is written down; makes the way to it.
    fn slot(&mut self, pattern: &Pattern) -> &mut Option<usize> {
        let mut at = self;
        for segment in &pattern.segments {
            at = match segment {
                Segment::Literal(text) => at.literals.entry(text.clone()).or_default(),
                Segment::Parameter(_) => at.parameter.get_or_insert_default(),
                Segment::Rest(_) => return &mut at.rest,
            };
        }
        &mut at.here
    }

    /// The place of a path of which `left` is not yet compared. The most specific one: tables in which that could depend on
    /// the order of the comparison are refused.
    fn find<'p>(&self, left: Option<&'p str>, values: &mut Values<'p>) -> Option<usize> {
        let Some(left) = left else { return self.here };
        let (name, behind) = match left.split_once('/') {
            Some((name, behind)) => (name, Some(behind)),
            None => (left, None),
        };
        let count = values.count;
        if let Some(branch) = self.literals.get(name)
            && let Some(place) = branch.find(behind, values)
        {
            return Some(place);
        }
        values.count = count;
        if let Some(branch) = &self.parameter {
            values.push(name);
            if let Some(place) = branch.find(behind, values) {
                return Some(place);
            }
            values.count = count;
        }
        self.rest.inspect(|_| values.push(left))
    }
}

impl<'p> Values<'p> {
    fn push(&mut self, value: &'p str) {
        if let Some(place) = self.values.get_mut(self.count) {
            *place = value;
            self.count += 1;
        }
    }
}

impl<'t, 'p, E> Found<'t, 'p, E> {
    /// The route for a method; HEAD is served by that for GET.
    pub(crate) fn row(&self, method: &Method) -> Option<&'t Row<E>> {
        let number = match *method {
            Method::GET | Method::HEAD => self.place.get,
            Method::POST => self.place.post,
            _ => None,
        };
        self.table.rows.get(number?)
    }

    /// What the field Allow says of this path.
    pub(crate) fn allow(&self) -> &'static str {
        match (self.place.get, self.place.post) {
            (Some(_), Some(_)) => "GET, HEAD, POST, OPTIONS",
            (None, Some(_)) => "POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// The values of the parameters, in order.
    pub(crate) fn values(&self) -> &[&'p str] {
        self.values.values.get(..self.values.count).unwrap_or_default()
    }

    /// The same, and the names that the pattern of `row` gives them.
    pub(crate) fn parameters(&self, row: &Row<E>) -> Vec<(Box<str>, Box<str>)> {
        let named = row.pattern.parameters().zip(self.values());
        named.map(|(name, value)| (name.into(), (*value).into())).collect()
    }
}
