# bash completion for vit. Made by `make completions`.
_vit() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "classify embed attention merge convert finetune evaluate reconstruct info bench models --help --version" -- "$cur"))
        return
    fi
    local command="${COMP_WORDS[1]}"
    if (( COMP_CWORD == 2 )) && [[ "$command" == models && "$cur" != -* ]]; then
        COMPREPLY=($(compgen -W "pull" -- "$cur"))
        return
    fi
    [[ "$command ${COMP_WORDS[2]}" == "models pull" ]] && command="models pull"
    case "$command $prev" in
        "classify -m"|"classify --model") compopt -o default; return ;;
        "classify -k"|"classify --top-k") compopt -o default; return ;;
        "classify -o"|"classify --out") compopt -o default; return ;;
        "classify --format") COMPREPLY=($(compgen -W "jsonl parquet csv tsv table" -- "$cur")); return ;;
        "classify --scores") COMPREPLY=($(compgen -W "prob logit" -- "$cur")); return ;;
        "classify --threshold") compopt -o default; return ;;
        "classify --select") compopt -o default; return ;;
        "classify --html") compopt -o default; return ;;
        "classify --files-from") compopt -o default; return ;;
        "classify --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "classify --ext") compopt -o default; return ;;
        "classify --max-pixels") compopt -o default; return ;;
        "classify --image-timeout") compopt -o default; return ;;
        "classify --max-errors") compopt -o default; return ;;
        "classify --on-error") COMPREPLY=($(compgen -W "skip stop" -- "$cur")); return ;;
        "classify --layout") compopt -o default; return ;;
        "classify --labels") compopt -o default; return ;;
        "classify --image-size") compopt -o default; return ;;
        "classify --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "classify --num-heads") compopt -o default; return ;;
        "classify --head") compopt -o default; return ;;
        "classify --sha256") compopt -o default; return ;;
        "classify --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "classify --device") compopt -o default; return ;;
        "classify --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "classify --engine") COMPREPLY=($(compgen -W "torch openvino onnx" -- "$cur")); return ;;
        "classify --quantize") COMPREPLY=($(compgen -W "int8" -- "$cur")); return ;;
        "classify -b"|"classify --batch-size") compopt -o default; return ;;
        "classify -j"|"classify --workers") compopt -o default; return ;;
        "classify --summary") compopt -o default; return ;;
        "classify --shard") compopt -o default; return ;;
        "classify --devices") compopt -o default; return ;;
        "embed -m"|"embed --model") compopt -o default; return ;;
        "embed --layer") compopt -o default; return ;;
        "embed --layers") compopt -o default; return ;;
        "embed --pool") COMPREPLY=($(compgen -W "cls mean cls+mean map patches tokens" -- "$cur")); return ;;
        "embed -o"|"embed --out") compopt -o default; return ;;
        "embed --format") COMPREPLY=($(compgen -W "npy npz safetensors jsonl parquet" -- "$cur")); return ;;
        "embed --store") COMPREPLY=($(compgen -W "fp32 fp16" -- "$cur")); return ;;
        "embed --files-from") compopt -o default; return ;;
        "embed --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "embed --ext") compopt -o default; return ;;
        "embed --max-pixels") compopt -o default; return ;;
        "embed --image-timeout") compopt -o default; return ;;
        "embed --max-errors") compopt -o default; return ;;
        "embed --on-error") COMPREPLY=($(compgen -W "skip stop" -- "$cur")); return ;;
        "embed --layout") compopt -o default; return ;;
        "embed --labels") compopt -o default; return ;;
        "embed --image-size") compopt -o default; return ;;
        "embed --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "embed --num-heads") compopt -o default; return ;;
        "embed --head") compopt -o default; return ;;
        "embed --sha256") compopt -o default; return ;;
        "embed --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "embed --device") compopt -o default; return ;;
        "embed --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "embed --engine") COMPREPLY=($(compgen -W "torch openvino onnx" -- "$cur")); return ;;
        "embed --quantize") COMPREPLY=($(compgen -W "int8" -- "$cur")); return ;;
        "embed -b"|"embed --batch-size") compopt -o default; return ;;
        "embed -j"|"embed --workers") compopt -o default; return ;;
        "embed --summary") compopt -o default; return ;;
        "embed --shard") compopt -o default; return ;;
        "embed --devices") compopt -o default; return ;;
        "attention -m"|"attention --model") compopt -o default; return ;;
        "attention -o"|"attention --out") compopt -o default; return ;;
        "attention --method") COMPREPLY=($(compgen -W "raw rollout grad similarity" -- "$cur")); return ;;
        "attention --layer") compopt -o default; return ;;
        "attention --heads") compopt -o default; return ;;
        "attention --query") compopt -o default; return ;;
        "attention --class") compopt -o default; return ;;
        "attention --discard-ratio") compopt -o default; return ;;
        "attention --style") COMPREPLY=($(compgen -W "overlay heatmap panel grid mask" -- "$cur")); return ;;
        "attention --alpha") compopt -o default; return ;;
        "attention --mass") compopt -o default; return ;;
        "attention --colormap") COMPREPLY=($(compgen -W "inferno viridis turbo hot gray" -- "$cur")); return ;;
        "attention --size") compopt -o default; return ;;
        "attention --format") COMPREPLY=($(compgen -W "png jpg" -- "$cur")); return ;;
        "attention --html") compopt -o default; return ;;
        "attention --files-from") compopt -o default; return ;;
        "attention --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "attention --ext") compopt -o default; return ;;
        "attention --max-pixels") compopt -o default; return ;;
        "attention --image-timeout") compopt -o default; return ;;
        "attention --max-errors") compopt -o default; return ;;
        "attention --on-error") COMPREPLY=($(compgen -W "skip stop" -- "$cur")); return ;;
        "attention --layout") compopt -o default; return ;;
        "attention --labels") compopt -o default; return ;;
        "attention --image-size") compopt -o default; return ;;
        "attention --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "attention --num-heads") compopt -o default; return ;;
        "attention --head") compopt -o default; return ;;
        "attention --sha256") compopt -o default; return ;;
        "attention --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "attention --device") compopt -o default; return ;;
        "attention --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "attention --engine") COMPREPLY=($(compgen -W "torch openvino onnx" -- "$cur")); return ;;
        "attention --quantize") COMPREPLY=($(compgen -W "int8" -- "$cur")); return ;;
        "attention -b"|"attention --batch-size") compopt -o default; return ;;
        "attention -j"|"attention --workers") compopt -o default; return ;;
        "attention --summary") compopt -o default; return ;;
        "attention --shard") compopt -o default; return ;;
        "merge -o"|"merge --out") compopt -o default; return ;;
        "convert --to") COMPREPLY=($(compgen -W "hf timm onnx" -- "$cur")); return ;;
        "convert --dtype") COMPREPLY=($(compgen -W "fp32 fp16 bf16" -- "$cur")); return ;;
        "convert --layout") compopt -o default; return ;;
        "convert --labels") compopt -o default; return ;;
        "convert --image-size") compopt -o default; return ;;
        "convert --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "convert --num-heads") compopt -o default; return ;;
        "convert --head") compopt -o default; return ;;
        "convert --sha256") compopt -o default; return ;;
        "finetune -o"|"finetune --out") compopt -o default; return ;;
        "finetune -m"|"finetune --model") compopt -o default; return ;;
        "finetune --val") compopt -o default; return ;;
        "finetune --val-split") compopt -o default; return ;;
        "finetune --objective") COMPREPLY=($(compgen -W "classify mim" -- "$cur")); return ;;
        "finetune --train") compopt -o default; return ;;
        "finetune --epochs") compopt -o default; return ;;
        "finetune --lr") compopt -o default; return ;;
        "finetune --weight-decay") compopt -o default; return ;;
        "finetune --layer-decay") compopt -o default; return ;;
        "finetune --warmup") compopt -o default; return ;;
        "finetune --batch-size") compopt -o default; return ;;
        "finetune --accumulate") compopt -o default; return ;;
        "finetune --clip") compopt -o default; return ;;
        "finetune --seed") compopt -o default; return ;;
        "finetune --augment") COMPREPLY=($(compgen -W "none light medium strong" -- "$cur")); return ;;
        "finetune --label-smoothing") compopt -o default; return ;;
        "finetune --mixup") compopt -o default; return ;;
        "finetune --cutmix") compopt -o default; return ;;
        "finetune --drop-path") compopt -o default; return ;;
        "finetune --ema") compopt -o default; return ;;
        "finetune --patience") compopt -o default; return ;;
        "finetune --lora-rank") compopt -o default; return ;;
        "finetune --lora-alpha") compopt -o default; return ;;
        "finetune --mask-ratio") compopt -o default; return ;;
        "finetune --save-every") compopt -o default; return ;;
        "finetune --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "finetune --ext") compopt -o default; return ;;
        "finetune --max-pixels") compopt -o default; return ;;
        "finetune --image-timeout") compopt -o default; return ;;
        "finetune --layout") compopt -o default; return ;;
        "finetune --labels") compopt -o default; return ;;
        "finetune --image-size") compopt -o default; return ;;
        "finetune --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "finetune --num-heads") compopt -o default; return ;;
        "finetune --head") compopt -o default; return ;;
        "finetune --sha256") compopt -o default; return ;;
        "finetune --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "finetune --device") compopt -o default; return ;;
        "finetune --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "finetune -j"|"finetune --workers") compopt -o default; return ;;
        "finetune --summary") compopt -o default; return ;;
        "evaluate -m"|"evaluate --model") compopt -o default; return ;;
        "evaluate --knn") compopt -o default; return ;;
        "evaluate --preds") compopt -o default; return ;;
        "evaluate -o"|"evaluate --out") compopt -o default; return ;;
        "evaluate --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "evaluate --ext") compopt -o default; return ;;
        "evaluate --max-pixels") compopt -o default; return ;;
        "evaluate --image-timeout") compopt -o default; return ;;
        "evaluate --layout") compopt -o default; return ;;
        "evaluate --labels") compopt -o default; return ;;
        "evaluate --image-size") compopt -o default; return ;;
        "evaluate --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "evaluate --num-heads") compopt -o default; return ;;
        "evaluate --head") compopt -o default; return ;;
        "evaluate --sha256") compopt -o default; return ;;
        "evaluate --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "evaluate --device") compopt -o default; return ;;
        "evaluate --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "evaluate --engine") COMPREPLY=($(compgen -W "torch openvino onnx" -- "$cur")); return ;;
        "evaluate --quantize") COMPREPLY=($(compgen -W "int8" -- "$cur")); return ;;
        "evaluate -b"|"evaluate --batch-size") compopt -o default; return ;;
        "evaluate -j"|"evaluate --workers") compopt -o default; return ;;
        "evaluate --summary") compopt -o default; return ;;
        "reconstruct -o"|"reconstruct --out") compopt -o default; return ;;
        "reconstruct -m"|"reconstruct --model") compopt -o default; return ;;
        "reconstruct --mask-ratio") compopt -o default; return ;;
        "reconstruct --seed") compopt -o default; return ;;
        "reconstruct --files-from") compopt -o default; return ;;
        "reconstruct --formats") COMPREPLY=($(compgen -W "common all" -- "$cur")); return ;;
        "reconstruct --ext") compopt -o default; return ;;
        "reconstruct --max-pixels") compopt -o default; return ;;
        "reconstruct --image-timeout") compopt -o default; return ;;
        "reconstruct --max-errors") compopt -o default; return ;;
        "reconstruct --on-error") COMPREPLY=($(compgen -W "skip stop" -- "$cur")); return ;;
        "reconstruct --layout") compopt -o default; return ;;
        "reconstruct --labels") compopt -o default; return ;;
        "reconstruct --image-size") compopt -o default; return ;;
        "reconstruct --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "reconstruct --num-heads") compopt -o default; return ;;
        "reconstruct --head") compopt -o default; return ;;
        "reconstruct --sha256") compopt -o default; return ;;
        "reconstruct --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "reconstruct --device") compopt -o default; return ;;
        "reconstruct --dtype") COMPREPLY=($(compgen -W "fp32 bf16 fp16 auto" -- "$cur")); return ;;
        "reconstruct --engine") COMPREPLY=($(compgen -W "torch openvino onnx" -- "$cur")); return ;;
        "reconstruct --quantize") COMPREPLY=($(compgen -W "int8" -- "$cur")); return ;;
        "reconstruct -b"|"reconstruct --batch-size") compopt -o default; return ;;
        "reconstruct -j"|"reconstruct --workers") compopt -o default; return ;;
        "reconstruct --summary") compopt -o default; return ;;
        "info --layout") compopt -o default; return ;;
        "info --labels") compopt -o default; return ;;
        "info --image-size") compopt -o default; return ;;
        "info --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "info --num-heads") compopt -o default; return ;;
        "info --head") compopt -o default; return ;;
        "info --sha256") compopt -o default; return ;;
        "info --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "bench --on") compopt -o default; return ;;
        "bench --device") compopt -o default; return ;;
        "bench --seconds") compopt -o default; return ;;
        "bench --layout") compopt -o default; return ;;
        "bench --labels") compopt -o default; return ;;
        "bench --image-size") compopt -o default; return ;;
        "bench --preprocess") COMPREPLY=($(compgen -W "hf timm" -- "$cur")); return ;;
        "bench --num-heads") compopt -o default; return ;;
        "bench --head") compopt -o default; return ;;
        "bench --sha256") compopt -o default; return ;;
        "bench --decode") COMPREPLY=($(compgen -W "exact fast" -- "$cur")); return ;;
        "models --for") COMPREPLY=($(compgen -W "speed accuracy memory resolution features" -- "$cur")); return ;;
    esac
    case "$command" in
        classify) words="-m --model -k --top-k -o --out --format --scores --threshold --select --paths-only --html --overwrite --files-from -0 --null --formats --ext --max-pixels --image-timeout --max-errors --on-error --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --engine --quantize --compile -b --batch-size -j --workers -q --quiet --no-progress --log-json --summary --resume --retry-failed --keep-missing --shard --devices -h --help" ;;
        embed) words="-m --model --layer --layers --pool --norm --no-norm --l2 -o --out --format --store --overwrite --files-from -0 --null --formats --ext --max-pixels --image-timeout --max-errors --on-error --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --engine --quantize --compile -b --batch-size -j --workers -q --quiet --no-progress --log-json --summary --resume --retry-failed --keep-missing --shard --devices -h --help" ;;
        attention) words="-m --model -o --out --method --layer --heads --query --class --discard-ratio --style --alpha --mass --colormap --size --format --raw --html --show --overwrite --files-from -0 --null --formats --ext --max-pixels --image-timeout --max-errors --on-error --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --engine --quantize --compile -b --batch-size -j --workers -q --quiet --no-progress --log-json --summary --resume --retry-failed --keep-missing --shard -h --help" ;;
        merge) words="-o --out --overwrite -q --quiet -h --help" ;;
        convert) words="--to --dtype --verify --overwrite --layout --labels --image-size --preprocess --num-heads --head --sha256 --offline -q --quiet -h --help" ;;
        finetune) words="-o --out -m --model --val --val-split --objective --train --epochs --lr --weight-decay --layer-decay --warmup --batch-size --accumulate --clip --seed --augment --no-flip --label-smoothing --mixup --cutmix --drop-path --ema --patience --class-weights --gradient-checkpointing --lora-rank --lora-alpha --mask-ratio --save-every --overwrite --resume --formats --ext --max-pixels --image-timeout --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --compile -j --workers -q --quiet --no-progress --log-json --summary -h --help" ;;
        evaluate) words="-m --model --knn --preds --json -o --out --overwrite --formats --ext --max-pixels --image-timeout --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --engine --quantize --compile -b --batch-size -j --workers -q --quiet --no-progress --log-json --summary -h --help" ;;
        reconstruct) words="-o --out -m --model --mask-ratio --seed --no-paste --overwrite --files-from -0 --null --formats --ext --max-pixels --image-timeout --max-errors --on-error --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline --device --dtype --engine --quantize --compile -b --batch-size -j --workers -q --quiet --no-progress --log-json --summary -h --help" ;;
        info) words="--json --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline -h --help" ;;
        bench) words="--on --device --seconds --json -q --quiet --no-progress --layout --labels --image-size --preprocess --num-heads --head --sha256 --no-exif --decode --offline -h --help" ;;
        models) words="--for --json -h --help" ;;
        "models pull") words="--offline -h --help" ;;
    esac
    if [[ "$cur" == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
        compopt -o default
    fi
}
complete -F _vit vit
