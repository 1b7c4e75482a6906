# Completion of hmcnotifyd for bash.
_hmcnotifyd() {
    local cur="${COMP_WORDS[COMP_CWORD]}"
    [[ $cur == "=" ]] && cur=""
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" --completion-bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$cur"))
}
complete -o default -F _hmcnotifyd hmcnotifyd
