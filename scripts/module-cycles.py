#!/usr/bin/env python3
"""Reports import cycles between sibling modules, in every directory of a source tree.

    scripts/module-cycles.py DIR...

DIR is the `src` of a crate. Two modules form a cycle if each uses the other, directly
or through further siblings. Submodules count as part of their module. Tests are ignored.
If a parent re-exports an item, the item counts as part of the child that defines it.

The exit code is 1 if a cycle was reported.
"""

import re
import sys
from pathlib import Path

COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\])'""", re.DOTALL
)
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"\b(?:crate|self|super)(?:\s*::\s*\w+)+")


def code_of(file):
    """Returns the text of a file without comments, literals and inline test modules."""
    text = COMMENT_OR_LITERAL.sub(" ", file.read_text())
    while match := re.search(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub(?:\([^)]*\))?\s+)?mod \w+\s*([;{])", text):
        end = match.end()
        depth = 1 if match[1] == "{" else 0
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: match.start()] + text[end:]
    return text


def expand(tree):
    """Expands a use tree: `a::{b, c::{d, e as f}}` to `a::b`, `a::c::d`, `a::c::e`."""
    tree = re.sub(r"\s+as\s+\w+", "", tree)
    tree = re.sub(r"\s+", "", tree)

    def parse(at):
        """Parses a list of trees up to a closing brace; returns the paths and the position."""
        paths, prefix = [], ""
        while at < len(tree):
            if tree[at] == "{":
                inner, at = parse(at + 1)
                paths += [prefix + path for path in inner]
                prefix = None
            elif tree[at] in ",}":
                if prefix:
                    paths.append(prefix)
                prefix = ""
                if tree[at] == "}":
                    return paths, at + 1
                at += 1
            else:
                prefix = (prefix or "") + tree[at]
                at += 1
        if prefix:
            paths.append(prefix)
        return paths, at

    return [path.split("::") for path in parse(0)[0]]


class Crate:
    def __init__(self, src):
        self.modules = {(): []}
        self.code = {}
        for file in sorted(src.rglob("*.rs")):
            module = file.relative_to(src).with_suffix("").parts
            if "tests" in module:
                continue
            if module[-1] in ("lib", "main", "mod"):
                module = module[:-1]
            self.code[module] = self.code.get(module, "") + code_of(file)
            for length in range(len(module) + 1):
                self.modules.setdefault(module[:length], [])
        self.exports = {module: self.exports_of(module) for module in self.code}

    def exports_of(self, module):
        """Maps the names that a module re-exports or imports from its children to the child."""
        names = {}
        for _, tree in USE.findall(self.code[module]):
            for path in expand(tree):
                if path[0] == "self":
                    path = path[1:]
                if len(path) >= 2 and module + (path[0],) in self.modules:
                    names[path[-1]] = path[0]
        return names

    def resolve(self, module, path):
        """Resolves `path` in `module` to an absolute module path. None: it is in another crate."""
        if path[0] == "crate":
            at, rest = (), path[1:]
        elif path[0] == "self":
            at, rest = module, path[1:]
        elif path[0] == "super":
            at, rest = module, path
            while rest and rest[0] == "super":
                at, rest = at[:-1], rest[1:]
        elif module + (path[0],) in self.modules:
            at, rest = module, path
        else:
            return None
        for name in rest:
            child = name if at + (name,) in self.modules else self.exports.get(at, {}).get(name)
            if child is None:
                break
            at += (child,)
            if child != name:
                break
        return at

    def edges(self):
        """Returns, for each directory, which of its modules uses which other modules."""
        found = {}
        for module, code in self.code.items():
            paths = [path for _, tree in USE.findall(code) for path in expand(tree)]
            paths += [re.sub(r"\s", "", path).split("::") for path in PATH.findall(USE.sub(" ", code))]
            for path in paths:
                target = self.resolve(module, path)
                if target is None:
                    continue
                shared = 0
                while shared < min(len(module), len(target)) and module[shared] == target[shared]:
                    shared += 1
                if shared < min(len(module), len(target)):
                    uses = found.setdefault(module[:shared], {})
                    uses.setdefault(module[shared], set()).add(target[shared])
        return found


def cycles(uses):
    """Returns the groups of modules that use each other, directly or indirectly."""
    def reach(start):
        seen, queue = set(), list(uses.get(start, ()))
        while queue:
            at = queue.pop()
            if at not in seen:
                seen.add(at)
                queue += uses.get(at, ())
        return seen

    reachable = {module: reach(module) for module in uses}
    groups = []
    for module in sorted(uses):
        group = {other for other in reachable[module] if module in reachable.get(other, ())}
        if group and group not in groups:
            groups.append(group)
    return groups


def main():
    failed = False
    for src in map(Path, sys.argv[1:]):
        for directory, uses in sorted(Crate(src).edges().items()):
            path = "/".join((src.as_posix(),) + directory)
            for group in cycles(uses):
                print(f"{path}: import cycle between {', '.join(sorted(group))}")
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
