import json
from bolid.evaluation.evaluate import evaluate
def test_x(toy, tmp_path):
    s = toy.settings(tmp_path/"out", {"base": {}, "avg": {"adapters": [str(p) for p in toy.adapters], "references":[1,4], "body_weight":0.0}, "bolid": {"adapter": str(toy.adapters[0]), "references":[4], "target_pose": True}}, measures=toy.measures, baseline="base", drawing={"seeds":[0,1],"guidance_scales":[1.0,4.0]})
    import time; t=time.time()
    r = evaluate(s); print(time.time()-t); t=time.time()
    r = evaluate(s); print(time.time()-t)
    import shutil; shutil.rmtree("/tmp/evalout", ignore_errors=True); shutil.copytree(tmp_path/"out","/tmp/evalout")
    print(json.dumps(r,indent=1)[:3000])
