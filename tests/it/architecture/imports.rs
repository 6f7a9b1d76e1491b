//! Reads which modules a module imports, by parsing its source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, Item, UseTree};

/// One import or one use of a path that begins at a crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The source file, relative to the checkout.
    pub file: String,
    /// The module that imports, from the root of its crate.
    pub from: Vec<String>,
    /// The crate that is imported from, `crate` for its own.
    pub krate: String,
    /// The path within that crate.
    pub path: Vec<String>,
}

/// Returns all imports of the sources below `root`, without those of tests.
pub fn of_crate(root: &str) -> Vec<Import> {
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    for file in files(&root, "rs") {
        let module = module_of(&root, &file);
        if module.iter().any(|name| name == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("sources are UTF-8");
        let syntax = syn::parse_file(&text).expect("the sources compile");
        let mut visitor = Visitor {
            file: relative(&file),
            module,
            found: Vec::new(),
        };
        visitor.visit_file(&syntax);
        all.extend(visitor.found);
    }
    all
}

/// Returns, for every module at `depth` (1: the crate's own modules), the modules at that depth which it imports.
pub fn graph(imports: &[Import], depth: usize) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in imports.iter().filter(|import| import.krate == "crate") {
        let cut = |path: &[String]| path.iter().take(depth).cloned().collect::<Vec<_>>().join("::");
        let (from, to) = (cut(&import.from), cut(&import.path));
        // A parent declares its children, and a child may use what its parent has.
        if from != to
            && !from.is_empty()
            && !from.starts_with(&format!("{to}::"))
            && !to.starts_with(&format!("{from}::"))
        {
            graph.entry(from).or_default().insert(to);
        }
    }
    graph
}

/// Returns one cycle of the graph, if it has any.
pub fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        node: &'a str,
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|name| *name == node) {
            return Some(path[at..].iter().map(|name| (*name).to_owned()).collect());
        }
        if !done.insert(node) {
            return None;
        }
        path.push(node);
        let next = graph.get(node).into_iter().flatten();
        let found = next.into_iter().find_map(|next| visit(next, graph, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}

/// Returns every file with that extension below a folder.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// Returns a path as it is named in the checkout.
pub fn relative(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let path = file.strip_prefix(root).expect("below the root").with_extension("");
    let mut names: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names
        .last()
        .is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main"))
    {
        names.pop();
    }
    names
}

struct Visitor {
    file: String,
    module: Vec<String>,
    found: Vec<Import>,
}

impl Visitor {
    fn add(&mut self, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        let (krate, path) = match first.as_str() {
            "crate" => ("crate".to_owned(), segments[1..].to_vec()),
            "self" | "super" => {
                let mut path = self.module.clone();
                let mut rest = segments;
                while let Some(name) = rest.first().filter(|name| matches!(name.as_str(), "self" | "super")) {
                    if name == "super" {
                        path.pop();
                    }
                    rest = &rest[1..];
                }
                path.extend(rest.iter().cloned());
                ("crate".to_owned(), path)
            }
            other => (other.to_owned(), segments[1..].to_vec()),
        };
        self.found.push(Import {
            file: self.file.clone(),
            from: self.module.clone(),
            krate,
            path,
        });
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            UseTree::Rename(name) => self.add(&with(name.ident.to_string())),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_test) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let begins = |name: &String| matches!(name.as_str(), "crate" | "super") || name.starts_with("copilotd");
        if segments.len() > 1 && segments.first().is_some_and(begins) {
            self.add(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let text = called.tokens.to_string().replace(' ', "");
        for (at, _) in text.match_indices("crate::") {
            let path = text[at + "crate::".len()..].split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
            let path = path.take(1).flat_map(|path| path.split("::")).map(ToOwned::to_owned);
            let segments: Vec<String> = ["crate".to_owned()].into_iter().chain(path).collect();
            self.add(&segments);
        }
        syn::visit::visit_macro(self, called);
    }
}

fn is_test(attribute: &Attribute) -> bool {
    let is_cfg_test = attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"));
    is_cfg_test || attribute.path().is_ident("test")
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
