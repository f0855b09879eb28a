#!/usr/bin/env bash
# Photos of one person go in, pictures of that person and a report come out: one_person.py, with curl.
#
#   clients/examples/curl.sh photos/ anna "a person reading in a garden, warm light"
#
# It needs bash, curl, and python3 for JSON (nothing but its standard library; jq would do, but is on fewer machines).
#
# COMFYUI   the server, http://127.0.0.1:8188 by default
# WORKFLOW  a graph in API form with the nodes BoLIDLoadReferences and MultiRefImageEncoder, and with a CLIPTextEncode
#           at the KSampler's `positive`; workflows/api/many_photos_averaged.json by default
#
# Exit codes: 0 all is written; 1 the run failed or was interrupted, or the server did not answer; 2 nothing was run.
set -euo pipefail

[ $# -ge 2 ] || { echo "Usage: $0 PHOTOS_FOLDER OUTPUT_FOLDER [PROMPT]" >&2; exit 2; }
photos=$1 output=$2 text=${3:-}
server=${COMFYUI:-http://127.0.0.1:8188}
workflow=${WORKFLOW:-$(dirname "${BASH_SOURCE[0]}")/../../workflows/api/many_photos_averaged.json}
subfolder=one_person
[ ! -e "$output" ] || { echo "$output is there already. Give the name of a new folder." >&2; exit 2; }

mkdir -p "$(dirname "$output")"
work=$(mktemp -d "$(dirname "$output")/.curl-XXXXXX")
prompt_id=
finish() {
    # A run that is still in the server's hands (Ctrl-C) is taken out of its queue, and interrupted.
    if [ -n "$prompt_id" ]; then
        request "$server/queue" --data "{\"delete\": [\"$prompt_id\"]}" || true
        request "$server/interrupt" --data "{\"prompt_id\": \"$prompt_id\"}" || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

request() {
    curl --silent --show-error --fail --max-time 60 "$@" ||
        { echo "$1 gave no answer, or an error. Does a ComfyUI run there?" >&2; return 1; }
}

# 1. Upload the photos. overwrite=false: the server keeps a photo of that name if it is the same, else it picks a name.
shopt -s nocasematch
names=()
for photo in "$photos"/*; do
    [[ $photo =~ \.(avif|bmp|gif|heic|heif|jpe?g|png|tiff?|webp)$ ]] || continue
    answer=$(request "$server/upload/image" --form "image=@\"$photo\"" --form type=input \
        --form "subfolder=$subfolder" --form overwrite=false)
    names+=("$subfolder/$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["name"])' "$answer")")
done
[ ${#names[@]} -gt 0 ] || { echo "$photos has no photo." >&2; exit 2; }

# 2. Fill in the graph, and connect the encoder's report to a 'Preview as Text', which puts it into the results.
python3 - "$workflow" "$text" "${names[@]}" >"$work/request.json" <<'PYTHON'
import json, sys

workflow, text, *names = sys.argv[1:]
graph = json.load(open(workflow, encoding="utf-8"))
for node_id, node in list(graph.items()):
    if node["class_type"] == "BoLIDLoadReferences":
        node["inputs"].update(folder="", files="\n".join(names))
    if node["class_type"] == "MultiRefImageEncoder":
        graph["report"] = {"class_type": "PreviewAny", "inputs": {"source": [node_id, 2]}}
    if node["class_type"] == "KSampler" and text:
        graph[node["inputs"]["positive"][0]]["inputs"]["text"] = text
json.dump({"prompt": graph}, sys.stdout)
PYTHON

# 3. Queue it. The server checks every input first: HTTP 400 is its refusal, and so is HTTP 200 with errors of some nodes.
status=$(curl --silent --show-error --max-time 60 "$server/prompt" --header "Content-Type: application/json" \
    --data-binary "@$work/request.json" --output "$work/answer.json" --write-out "%{http_code}") || exit 1
prompt_id=$(python3 - "$work/answer.json" "$status" <<'PYTHON'
import json, sys

text = open(sys.argv[1], encoding="utf-8").read()
if sys.argv[2] not in ("200", "400"):
    sys.exit(f"the server answered HTTP {sys.argv[2]}: {text[:500]}")
answer = json.loads(text)
errors = answer.get("node_errors") or {}
for node_id, node in errors.items():
    for error in node["errors"]:
        print(f"node {node_id} ({node['class_type']}): {error['message']}: {error['details']}", file=sys.stderr)
if sys.argv[2] != "200" and not errors:
    print(answer["error"]["message"], answer["error"]["details"], file=sys.stderr)
print(answer.get("prompt_id", ""))
sys.exit(2 if errors or sys.argv[2] != "200" else 0)
PYTHON
)
echo "queued: $prompt_id"

# 4. Wait for it. The queue is asked first, so that a run that ends between the two requests is found in the history.
while true; do
    queue=$(request "$server/queue")
    request "$server/history/$prompt_id" >"$work/history.json"
    [ "$(cat "$work/history.json")" = "{}" ] || break
    case "$queue" in
        *"$prompt_id"*) sleep 0.5 ;;
        *) echo "the prompt is gone: it was cancelled, or the server was started anew." >&2; prompt_id=; exit 1 ;;
    esac
done
prompt_id=

# 5. Say what failed, or list the pictures, one URL query a line, and write the reports.
mkdir "$work/results"
python3 - "$work/history.json" "$work/results" >"$work/pictures" <<'PYTHON'
import json, pathlib, sys, urllib.parse

(run,) = json.load(open(sys.argv[1], encoding="utf-8")).values()
if run["status"]["status_str"] == "error":
    for event, data in run["status"]["messages"]:
        if event == "execution_error":
            print(f"node {data['node_id']} ({data['node_type']}) failed: {data['exception_message'].strip()}", file=sys.stderr)
        if event == "execution_interrupted":
            print(f"interrupted in node {data['node_id']} ({data['node_type']})", file=sys.stderr)
    sys.exit(1)
for node_id, output in run["outputs"].items():
    for text in output.get("text", ()):
        pathlib.Path(sys.argv[2], f"{node_id}.json").write_text(text, encoding="utf-8")
    for picture in output.get("images", ()):
        if picture["type"] == "output":
            query = {name: picture[name] for name in ("filename", "subfolder", "type")}
            print(f"{node_id}_{picture['filename']}", urllib.parse.urlencode(query), sep="\t")
PYTHON

# 6. Download them. The folder appears when everything is in it.
while IFS=$'\t' read -r name query; do
    request "$server/view?$query" --output "$work/results/$name"
done <"$work/pictures"
mv "$work/results" "$output"
printf 'written: %s\n' "$output"/*
