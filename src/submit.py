"""A finished submission.csv: is it valid, and how good is it?

    python src/submit.py validate      # names and sizes against the test folder
    python src/submit.py score         # MSE against data.solution_csv, where the true alphas are known
"""
import cli
from config import Config, load_config
from images import list_images, read_shape
from submission import baselines, score, validate


def run_validate(cfg: Config) -> None:
    shapes = {path.stem: read_shape(path) for path in list_images(cfg.infer.images)[0]}
    rows = validate(cfg.infer.submission, list(shapes), shapes)
    print(f"{cfg.infer.submission}: valid, {rows} rows for {cfg.infer.images}")


def run_score(cfg: Config) -> None:
    solution = cfg.data.solution_csv
    trivial = baselines(solution)
    print(f"{'MSE against ' + str(solution):<60}   [0,1]     0…255")
    for name, mse in {str(cfg.infer.submission): score(cfg.infer.submission, solution),
                      "all zero": trivial["zero"], "best constant": trivial["constant"]}.items():
        print(f"{name:<60} {mse:.6f} {mse * 255**2:9.2f}")


ACTIONS = {"validate": run_validate, "score": run_score}


def main() -> None:
    args = cli.parse(__doc__, tuple(ACTIONS))
    ACTIONS[args.action](load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
