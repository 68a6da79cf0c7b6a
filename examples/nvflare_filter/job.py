"""Train in NVFlare's simulator, with an obfuscation of unveil's as a filter, and record what leaves the clients.

pip install 'unveil[nvflare]'
cd examples/nvflare_filter
python job.py
unveil audit recordings --model net:Net --truth recordings
"""

import torch
from net import Net
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

from unveil.captures.nvflare import obfuscate, record

if __name__ == "__main__":
    torch.manual_seed(0)
    recipe = FedAvgRecipe(name="filters", model=Net(), min_clients=2, num_rounds=2, train_script="client.py")
    obfuscate(recipe, "topk:density=0.1")
    record(recipe, "recordings", keep_labels=True, keep_pictures=True)
    recipe.execute(SimEnv(num_clients=2, workspace_root="workspace"))
