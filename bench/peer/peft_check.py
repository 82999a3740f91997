"""Does PEFT read our LoRA folders with the same logits?

    esft export BASE --adapter ADAPTER -o DIR
    python bench/peer/peft_check.py BASE DIR LOGITS.json

LOGITS.json: {"ids": [[...]], "logits": [...]} of base + adapter, flat (`npx tsx bench/peer/peft_logits.ts BASE ADAPTER IDS > LOGITS.json`).
Needs torch, transformers 5 and peft 0.21. Exit 1 when a logit differs by more than 2e-5.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, folder, logits = sys.argv[1:4]
with open(logits) as file:
    ours = json.load(file)
ids = torch.tensor(ours["ids"])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
with torch.no_grad():
    before = model.eval()(ids).logits
    found = PeftModel.from_pretrained(model, folder).eval()(ids).logits
wanted = torch.tensor(ours["logits"]).view(found.shape)
error, effect = float((found - wanted).abs().max()), float((found - before).abs().max())
print(f"largest difference {error:.1e}, the adapter moves logits by up to {effect:.2f}")
sys.exit(0 if error <= 2e-5 else 1)
