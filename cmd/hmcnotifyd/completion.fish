# Completion of hmcnotifyd for fish.
function __hmcnotifyd_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    set -l found ($words[1] --completion-bash $words[2..-1] "$cur" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path "$cur"
    end
end
complete -c hmcnotifyd -f -a '(__hmcnotifyd_complete)'
