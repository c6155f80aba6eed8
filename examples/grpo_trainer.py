"""TRL's GRPOTrainer on a TextGym task, judged before and after.

    python examples/grpo_trainer.py --task summarize --steps 20

Needs TRL: pip install 'textgym[trl]'. The default is the packaged model.
"""

from __future__ import annotations

import argparse
import tempfile

from textgym.integrations.trl import for_trl


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="summarize", help="name of a task")
    parser.add_argument("--model", default=None, help="folder or Hub id; default: the task's own")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per step")
    parser.add_argument("--samples", type=int, default=8, help="samples per prompt")
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--kl-coef", type=float, default=0.04, help="TRL's beta")
    parser.add_argument("--judged", type=int, default=32, help="prompts that the judge asks")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Trains and prints what the judge says."""
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    args = arguments(given)
    bundle = for_trl(args.task, args.model, prompts=args.judged)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=bundle.model,
            reward_funcs=bundle.reward_funcs,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=args.steps,
                per_device_train_batch_size=args.prompts * args.samples,
                num_generations=args.samples,
                max_completion_length=bundle.max_completion_length,
                learning_rate=args.lr,
                lr_scheduler_type="constant",
                beta=args.kl_coef,
                bf16=False,
                dataloader_pin_memory=False,
                logging_steps=max(1, args.steps // 5),
                eval_strategy="steps",
                eval_steps=args.steps,
                per_device_eval_batch_size=args.prompts * args.samples,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=bundle.train_dataset,
            eval_dataset=bundle.eval_dataset,
            processing_class=bundle.processing_class,
            callbacks=[bundle.callback],
        )
        trainer.remove_callback(PrinterCallback)
        before = bundle.judge(trainer.model)
        trainer.train()

    for row in trainer.state.log_history:
        if "reward" in row:
            print(
                f"step {row['step']:>4}  reward {row['reward']:.3f}  kl per token {row['kl']:.4f}"
            )
    (after,) = (row for row in trainer.state.log_history if "eval_textgym_reward" in row)
    print(f"{'judged':<8} {'before':>8} {'after':>8}")
    for name, value in before.items():
        print(f"{name:<8} {value:>8.3f} {after[f'eval_textgym_{name}']:>8.3f}")


if __name__ == "__main__":
    main()
