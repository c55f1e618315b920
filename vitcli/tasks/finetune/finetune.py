"""Labelled images, or just images, and a model into a model of one's own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from signal import SIGTERM

import torch

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.resolve import resolve
from vitcli.errors import Interrupted, UsageError, printable
from vitcli.interrupts import interrupts
from vitcli.jobs.apart import Read, read_of_model, read_of_options
from vitcli.jobs.job import Summary
from vitcli.jobs.loading import load_model
from vitcli.jobs.run import Run
from vitcli.models import onednn
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import can_compile, choose_device, choose_dtype, compile_layers
from vitcli.records import Failure
from vitcli.tasks.finetune.directory import RunDirectory
from vitcli.tasks.finetune.examples import Feeding
from vitcli.tasks.finetune.job import Finetuned, FinetuneJob, NullTrainingReporter, TrainingWatcher
from vitcli.tasks.finetune.recipe_choice import Chosen, choose
from vitcli.training.classes import check_learnable, class_names, divide
from vitcli.training.data import read_examples
from vitcli.training.example import Example
from vitcli.training.feed import Feed, Order
from vitcli.training.group import Group, joined
from vitcli.training.loop import Plan, Trainer
from vitcli.training.mixing import Mixing
from vitcli.training.objective import Classify, Normalise, Objective, Reconstruct, WithLoss
from vitcli.training.optim import Optimisation, class_weights
from vitcli.training.pretrain import fixed_of, reconstruction_of
from vitcli.training.recipe import Trained, with_head

MICRO_VALUES = 10 << 20  # in the widest layer of the images that a CPU takes at a time


def finetune(job: FinetuneJob, watcher: TrainingWatcher | None = None) -> Finetuned:
    """Run the job. Raises InputError for data that cannot be learnt, OutputError for a run
    directory that is in the way, Interrupted with what to do to go on."""
    device = choose_device(job.running.device)
    with joined(device) as group:
        if device.type == "cuda" and group.size > 1:
            device = torch.device("cuda", group.local_rank)
            torch.cuda.set_device(device)
        session = _Session(job, watcher or NullTrainingReporter(), device, group)
        return session.run()


@dataclass(slots=True)
class _Session:
    """The steps of a training, in the order in which a mistake is found cheaply."""

    job: FinetuneJob
    watcher: TrainingWatcher
    device: torch.device
    group: Group

    def run(self) -> Finetuned:
        job, group = self.job, self.group
        self._product_dtype()  # a mistake, before anything is written
        directory = RunDirectory(job.out, self._asked())
        earlier = None
        if group.is_first:
            scan = Run(job.inputs, job.running, self.watcher).scan()
            earlier = directory.open(
                scan, overwrite=job.overwrite, resume=job.resume, read=self._read()
            )
        earlier = group.gather(earlier)[0]
        examples = earlier.examples if earlier else self._divided()
        failures = earlier.left_out if earlier else []
        model = self._model()
        classes = class_names(examples)
        if job.training.objective == "classify":
            model = with_head(model, classes)
        else:
            model = reconstruction_of(model, job.training.seed)
        chosen = choose(job.training, model, examples, self.device)
        if earlier is None:
            self.watcher.note(f"recipe: {chosen.why}")
        self._check_batch(chosen)
        feeding = Feeding(job, self.watcher, group, model, chosen)
        if chosen.recipe.kind == "head":
            feed, examples, broken = feeding.of_features(examples)
            failures = [*failures, *broken]
        else:
            if earlier is None:
                examples, failures = feeding.readable(examples)
            feed = feeding.of_images(examples)
        for failure in failures:
            path, why = printable(failure.ref.path), printable(failure.message)
            self.watcher.note(f"left out: {path}: {why}")
        if earlier is None and group.is_first:
            if job.training.objective == "classify":
                for name in sorted({*classes} - {e.label for e in examples}, key=os.fsencode):
                    self.watcher.note(f"no image of class {printable(name)} can be read")
                check_learnable(examples, self.watcher.note)
            directory.begin(examples, failures)
        return self._train(directory, model, feed, examples, chosen, failures)

    def _read(self) -> Iterator[Read]:
        """What the run reads, and must not overwrite. Raises ModelNotFound."""
        job = self.job
        yield Path(job.data), "the data of this run"
        if job.val is not None:
            yield Path(job.val), "the data of --val"
        if job.out.is_dir() and any(job.out.iterdir()):  # else nothing can be overwritten
            model = job.model
            offline = job.options.offline
            if isinstance(model, str):
                yield from read_of_model(resolve(model, offline=offline).weights)
            else:
                yield from read_of_model(model.files)
            options = {name: getattr(job.options, name) for name in ("labels", "head")}
            yield from read_of_options(options)

    def _asked(self) -> dict[str, object]:
        """What a run depends on: another answer is another run."""
        job = self.job
        model = job.model if isinstance(job.model, str) else job.model.spec
        found: dict[str, object] = {"data": job.data, "model": model, "val": job.val}
        found |= {f.name: getattr(job.training, f.name) for f in fields(job.training)}
        found |= {"dtype": job.running.dtype, "image_size": job.options.image_size}
        found["no_flip"] = not found.pop("flip")
        del found["save_every"]
        return found

    def _divided(self) -> list[Example]:
        """The examples with their splits. The first process looks, and tells the others."""
        job, training = self.job, self.job.training
        found: list[Example] = []
        if self.group.is_first:
            run = Run(job.inputs, job.running, self.watcher)
            is_mim = training.objective == "mim"
            read = partial(
                read_examples,
                scan=run.scan(),
                note=self.watcher.note,
                labelled=not is_mim,
                allow_outside=job.inputs.allow_outside,
            )
            found = read(job.data)
            if job.val is not None:
                held = read(job.val)
                found = [replace(e, split="train") for e in found]
                found += [replace(e, split="val") for e in held]
            found = divide(
                found, training.val_split, training.seed, self.watcher.note, labelled=not is_mim
            )
            run.note_system()
        return self.group.gather(found)[0]

    def _model(self) -> Model:
        job = self.job
        if isinstance(job.model, Model):
            return job.model
        keeps = job.training.objective == "mim"
        return load_model(job.model, job.options, self.watcher.note, keep_decoder=keeps)

    def _check_batch(self, chosen: Chosen) -> None:
        if chosen.batch_size % self.group.size:
            raise UsageError(
                f"--batch-size {chosen.batch_size} on {self.group.size} processes",
                "it is the size of the whole batch: give a multiple of their number",
            )

    def _trained(self, model: Model, chosen: Chosen) -> Trained:
        training = self.job.training
        model.network.to(self.device)
        common = {"on_cpu": self.device.type == "cpu", "dtype": self._product_dtype()}
        if training.objective == "mim":
            assert model.reconstruction is not None
            model.reconstruction.to(self.device)
            trained = Trained(
                model.reconstruction,
                chosen.recipe,
                checkpointing=training.checkpointing,
                fixed=fixed_of(model.reconstruction),
                wrap=WithLoss,
                **common,  # type: ignore[arg-type]
            )
        elif chosen.recipe.kind == "head":
            return Trained(model.network.head, chosen.recipe)
        else:
            trained = Trained(
                model.network,
                chosen.recipe,
                seed=training.seed,
                checkpointing=training.checkpointing,
                drop_path=training.drop_path,
                **common,  # type: ignore[arg-type]
            )
        if self.job.running.compile:
            if self.device.type == "cpu":
                self.watcher.note("--compile: on a CPU the products are oneDNN's, as they would be")
            elif can_compile(self.device, self.watcher.note):
                is_mim = training.objective == "mim"
                whole = trained.module.get_submodule("model" if is_mim else "")
                for part in whole.children() if is_mim else [whole]:
                    compile_layers(part)
        return trained

    def _product_dtype(self) -> torch.dtype:
        """The dtype of matrix products on a CPU, where fp16 is not for training."""
        dtype = choose_dtype(self.job.running.dtype, self.device)
        if self.device.type == "cpu" and dtype == torch.float16:
            raise UsageError("fp16 does not train on a CPU", "use --dtype bf16 or fp32")
        return dtype

    def _autocast(self) -> torch.dtype | None:
        dtype = self._product_dtype()
        is_packed = self.device.type == "cpu" and onednn.supports(dtype)
        return None if dtype == torch.float32 or is_packed else dtype

    def _objective(self, model: Model, examples: Sequence[Example], chosen: Chosen) -> Objective:
        normalise = Normalise(model.preprocess, self.device)
        if self.job.training.objective == "mim":
            assert isinstance(model.config, ViTConfig)
            return Reconstruct(normalise, model.config.grid, chosen.mask_ratio)
        weights = None
        if self.job.training.class_weights:
            found = Counter(e.label for e in examples if e.split == "train")
            weights = class_weights(found[label] for label in model.labels).to(self.device)
        training = self.job.training
        mixing = Mixing(mixup=training.mixup, cutmix=training.cutmix, smoothing=chosen.smoothing)
        return Classify(normalise, len(model.labels), mixing, weights)

    def _train(
        self,
        directory: RunDirectory,
        model: Model,
        feed: Feed,
        examples: Sequence[Example],
        chosen: Chosen,
        failures: Sequence[Failure],
    ) -> Finetuned:
        training, group = self.job.training, self.group
        trained = self._trained(model, chosen)
        steps = feed.order.steps
        optimisation = Optimisation(
            lr=chosen.lr,
            weight_decay=chosen.weight_decay,
            layer_decay=chosen.layer_decay,
            warmup=round(chosen.warmup * steps),
            steps=chosen.epochs * steps,
            clip=training.clip or None,
        )
        plan = Plan(
            epochs=chosen.epochs,
            seed=training.seed,
            optimisation=optimisation,
            device=self.device,
            micro=self._micro(model, feed.order, chosen),
            autocast=self._autocast(),
            ema=training.ema,
            patience=training.patience,
            save_every=60 * training.save_every,
        )
        trainer = Trainer(
            trained,
            feed,
            self._objective(model, examples, chosen),
            plan,
            save=lambda state: directory.save(state),
            best=lambda: directory.write_best(model, trained),
            group=group,
            stops=lambda: interrupts.is_struck,
            higher_is_better=training.objective == "classify",
        )
        state = group.gather(directory.state() if group.is_first else None)[0]
        if state is None and directory.is_resumed:
            self.watcher.note("the earlier run had not saved anything yet: training starts over")
        if state is not None:
            trainer.restore(state)
            if trainer.epoch:
                self.watcher.note(f"goes on after epoch {trainer.epoch}, step {trainer.step}")
        self._watch(trainer, chosen.epochs)
        val = [e.found for e in examples if e.split == "val"]
        if group.is_first:
            directory.finish(model, trainer.history, trainer.answers, val, failures, chosen.why)
        has_score = bool(val) and training.objective == "classify"
        seconds = sum(row["seconds"] for row in trainer.history)
        return Finetuned(
            Summary(len(examples), len(failures), seconds),
            trainer.epoch,
            trainer.best_epoch,
            trainer.best_score if has_score else None,
            len(val),
        )

    def _watch(self, trainer: Trainer, epochs: int) -> None:
        """Let it train; a signal waits until a step is whole, everybody knows, and it is saved."""
        with interrupts.held():
            for event in trainer.run():
                self.watcher.trained(event, epochs)
        if trainer.is_stopped:
            try:
                interrupts.check()
                raise Interrupted(SIGTERM)  # another process was told to stop
            except Interrupted as interrupted:
                steps = trainer.feed.order.steps
                interrupted.after = (
                    f"epoch {trainer.epoch + 1} of {epochs}, step {trainer.step} of {steps}"
                )
                interrupted.can_resume = True
                interrupted.is_told = not self.group.is_first
                raise

    def _micro(self, model: Model, order: Order, chosen: Chosen) -> int | None:
        """Images at a time: --accumulate divides a step; a CPU takes what stays in its caches."""
        if chosen.recipe.kind == "head":
            return None
        part = -(-order.share // self.job.training.accumulate)
        if self.device.type == "cpu" and isinstance(model.config, ViTConfig):
            some = max(1, MICRO_VALUES // model.config.widest_layer)
            part = min(part, max(2, some - some % 2))
        return part
