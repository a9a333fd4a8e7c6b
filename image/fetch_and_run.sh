#!/bin/bash
# Entry point of the container image: fetch a script or a zip archive from S3, then become it.
#
#   BATCH_FILE_TYPE     "script" or "zip"
#   BATCH_FILE_S3_URL   s3://BUCKET/KEY of it
#   arguments           script: handed to it; zip: the first names the command inside the archive, the others are handed to it
#
# The process that was fetched takes this one's place: its exit code is the container's, and signals reach it. When it cannot be
# started, the exit code says why: 64 wrong use, 65 not what BATCH_FILE_TYPE says, 69 not to be fetched, 73 no room to put it,
# 126 and 127 as in every shell.
set -u

readonly TRIES=4

fail() {
    local code=$1
    shift
    printf 'fetch_and_run: %s\n' "$*" >&2
    exit "$code"
}

have() { command -v "$1" >/dev/null 2>&1; }

# s5cmd asks for an object's size before it fetches it. With curl, which is handed the signed URL unseen by others, it is one request.
fetch_signed() {
    local url
    have s5cmd && have curl && [[ $1 =~ ^s3://[A-Za-z0-9/_.-]+$ ]] || return 1
    url=$(s5cmd --log error presign "$1" 2>/dev/null) && [[ $url == http*[?]* && $url != *[\"\\[:space:]]* ]] || return 1
    printf 'url = "%s"\n' "$url" | curl --silent --fail --location --connect-timeout 20 --config - --output "$2" 2>/dev/null
}

# One try. s5cmd starts many times faster; what it cannot do, aws may.
fetch_once() {
    fetch_signed "$1" "$2" && return 0
    if have s5cmd && s5cmd --log error cp --raw "$1" "$2"; then
        return 0
    fi
    have aws && aws s3 cp --only-show-errors "$1" "$2"
}

fetch() {
    local try
    for ((try = 1; try <= TRIES; try++)); do
        fetch_once "$1" "$2" && return 0
        ((try < TRIES)) && sleep "$((try * try))"
    done
    fail 69 "cannot fetch $1 (tried $TRIES times): does it exist, and may this job's role read it?"
}

type=${BATCH_FILE_TYPE-} url=${BATCH_FILE_S3_URL-}
case $type in
script | zip) ;;
'') fail 64 'BATCH_FILE_TYPE is not set: use "script" or "zip"' ;;
*) fail 64 "BATCH_FILE_TYPE is \"$type\": use \"script\" or \"zip\"" ;;
esac
case $url in
s3://?*/?*) ;;
'') fail 64 'BATCH_FILE_S3_URL is not set: use s3://BUCKET/KEY' ;;
*) fail 64 "BATCH_FILE_S3_URL is \"$url\": use s3://BUCKET/KEY" ;;
esac
if [[ $type == zip ]]; then
    (($#)) || fail 64 'a zip archive needs the name of a command inside it as the first argument'
    have unzip || fail 69 'unzip is not installed in this image'
fi
have s5cmd || have aws || fail 69 'neither s5cmd nor aws is installed in this image'

folder=$(mktemp -d) || fail 73 "cannot make a temporary directory in ${TMPDIR:-/tmp}"

if [[ $type == script ]]; then
    fetch "$url" "$folder/script"
    chmod u+x "$folder/script" || fail 73 "cannot make $folder/script executable"
    exec "$folder/script" "$@"
fi

fetch "$url" "$folder/archive.zip"
mkdir "$folder/content" && cd "$folder/content" || fail 73 "cannot make $folder/content"
unzip -q "$folder/archive.zip" || fail 65 "$url is not a zip archive, or there is no room to unpack it"
rm -f "$folder/archive.zip"
command=$1
shift
[[ -f $command ]] || fail 65 "there is no file \"$command\" in $url"
chmod u+x "$command"
[[ $command == */* ]] || command=./$command
exec "$command" "$@"
