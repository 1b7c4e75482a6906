# Completion of hmcnotifyd for bash.
_hmcnotifyd() {
    local cur="${COMP_WORDS[COMP_CWORD]}"
    [[ $cur == "=" ]] && cur=""
    local IFS=$'\n' found
    found="$("${COMP_WORDS[0]}" --completion-bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
    if [[ $found == ":files" ]]; then
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "${cur#--*=}"))
    else
        COMPREPLY=($(compgen -W "$found" -- "$cur"))
    fi
}
complete -F _hmcnotifyd hmcnotifyd
