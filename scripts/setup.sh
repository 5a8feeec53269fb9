# shellcheck shell=bash
# Sourced by scripts/test and scripts/demo, with the checkout as the current folder: makes a venv with the package and
# one of its extras, and does nothing when that is done already. The caller brings die MESSAGE…, and, where it may
# install what the system lacks, install_venv_module VERSION.

venv=${VENV:-.venv}

say() { printf '\n==> %s\n' "$*" >&2; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local python
  for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
    if is_new_enough "$python"; then
      command -v "$python"
      return
    fi
  done
  die "Python 3.11 or newer is needed; set PYTHON to its path"
}

make_venv() {
  local python version
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    declare -F install_venv_module >/dev/null ||
      die "the venv module is missing: install python$version-venv (Debian and Ubuntu) or your system's like"
    install_venv_module "$version"
  fi
  say "python -m venv $venv"
  "$python" -m venv --clear "$venv"
}

# set_up_python EXTRA: the package with this extra, installed again whenever pyproject.toml changes or the checkout
# moves. The extra dev has all others.
set_up_python() {
  local extra=$1 stamp wanted
  if ! { is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    make_venv
  fi
  wanted="$(cksum <pyproject.toml) $PWD"
  for stamp in "$venv/.installed-dev" "$venv/.installed-$extra"; do
    if [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then
      return
    fi
  done
  say "pip install --editable .[$extra]"
  rm -f "$stamp"
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --root-user-action=ignore \
    --editable ".[$extra]"
  printf '%s' "$wanted" >"$stamp"
}
