# Stand-in for pegasus-lite-common.sh, which a PegasusLite job reads from the directory that it starts in.

pegasus_lite_start() { # worker package, SHA-256 of it: unpack it, put its programs on PATH
    start=$PWD
    trap pegasus_lite_end EXIT
    echo "PegasusLite: version of a stand-in" >&2
    [[ $(sha256sum < "$1" | cut -c -64) == "$2" ]] || pegasus_lite_bad "the worker package $1 did not arrive whole"
    mkdir worker && tar -xzf "$1" -C worker || pegasus_lite_bad "the worker package $1 cannot be unpacked"
    PATH=$start/worker/bin:$PATH
    [[ -z ${PEGASUS_CREDENTIALS:-} || $PEGASUS_CREDENTIALS == /* ]] || export PEGASUS_CREDENTIALS=$start/$PEGASUS_CREDENTIALS
}

pegasus_lite_verify() { # file...: what parents made is what their .meta says
    local file sum
    for file in "$@"; do
        sum=$(sed -n "s/^$file sha256=//p" "$start"/*.meta)
        [[ -n $sum ]] || pegasus_lite_bad "no .meta in $start says what $file is"
        [[ $(sha256sum < "$file" | cut -c -64) == "$sum" ]] || pegasus_lite_bad "$file is not what its .meta says"
    done
}

pegasus_lite_bad() {
    echo "PegasusLite: $*" >&2
    exit 1
}

pegasus_lite_end() {
    echo "PegasusLite: exitcode $?" >&2
}
