#!/usr/bin/env bash
# All GPU benches on one H200; receipts go to the folder given (bench/receipts by default). A configuration takes 40 to
# 60 s, most of it imports, weights and compilation: about twenty minutes in all.
# GRAFT_TEXT names a text file for the accuracy bench. Peers need trl, unsloth and liger-kernel; without them their lines are missing.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
receipts=${1:-bench/receipts}
mkdir -p "$receipts"
peers=$receipts/peers.jsonl
: > "$peers"
for setting in trl-default trl-best unsloth-packing; do
    timeout 150 python3 bench/peers/fine_tune.py "$setting" 2> "$receipts/peer.log" | grep '^{"peer"' >> "$peers" ||
        { echo "$setting gave no figure:"; tail -3 "$receipts/peer.log"; }
done
timeout 300 python3 bench/train.py lora --peers "$peers" --receipt "$receipts/train_lora.json"
full=$receipts/peers_full.jsonl
: > "$full"
for setting in stock liger; do
    timeout 100 python3 bench/peers/hf_loop.py "$setting" 2> "$receipts/peer.log" | grep '^{"peer"' >> "$full" ||
        { echo "$setting gave no figure:"; tail -3 "$receipts/peer.log"; }
done
timeout 400 python3 bench/train.py full --peers "$full" --receipt "$receipts/train_full.json"
timeout 150 python3 bench/train.py small --receipt "$receipts/small_model.json"
timeout 300 python3 bench/memory_plan.py --receipt "$receipts/memory_plan.json"
[ -n "${GRAFT_TEXT:-}" ] && timeout 240 python3 bench/accuracy.py --text $GRAFT_TEXT --receipt "$receipts/accuracy.json"
