"""Finetune a model on labelled or plain images, into a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from signal import SIGTERM

import torch

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.write import library_for
from vitcli.errors import Interrupted, UsageError, printable
from vitcli.images.scan import Omissions
from vitcli.interrupts import interrupts
from vitcli.jobs.apart import Read, read_of_models
from vitcli.jobs.cards.card import is_foreign, kept
from vitcli.jobs.job import Summary
from vitcli.jobs.listing import scan_of
from vitcli.jobs.loading import check_one_size, load_model
from vitcli.models.prepare import choose_device
from vitcli.records import Failure
from vitcli.tasks.finetune.build import make_objective, make_plan, make_trained, product_dtype
from vitcli.tasks.finetune.card import training_of
from vitcli.tasks.finetune.directory import RUN, RunDirectory
from vitcli.tasks.finetune.examples import FeedMaker
from vitcli.tasks.finetune.job import (
    Finetuned,
    FinetuneJob,
    NullTrainingReporter,
    TrainingReporter,
)
from vitcli.tasks.finetune.recipe_choice import ChosenRecipe, asked_recipe, choose_recipe
from vitcli.tasks.finetune.unused import Circumstances, unused
from vitcli.training.classes import check_learnable, class_names, divide, is_divided
from vitcli.training.data import read_examples
from vitcli.training.example import Example
from vitcli.training.feed import Feed
from vitcli.training.group import Group, joined
from vitcli.training.loop import Trainer
from vitcli.training.pretrain import reconstruction_of
from vitcli.training.recipe import with_head


def finetune(job: FinetuneJob, reporter: TrainingReporter | None = None) -> Finetuned:
    """Run the job. Raises InputError for data that cannot be learnt, OutputError for a
    directory with another run, and Interrupted, which says how to resume."""
    device = choose_device(job.running.device)
    with joined(device) as group:
        if device.type == "cuda" and group.size > 1:
            device = torch.device("cuda", group.local_rank)
            torch.cuda.set_device(device)
        return _Session(job, reporter or NullTrainingReporter(), device, group).run()


@dataclass(slots=True)
class _Session:
    """The steps of a finetuning, in an order that finds mistakes early."""

    job: FinetuneJob
    reporter: TrainingReporter
    device: torch.device
    group: Group

    @property
    def _is_mim(self) -> bool:
        return self.job.training.objective == "mim"

    @property
    def _has_classes(self) -> bool:
        return not self._is_mim

    def run(self) -> Finetuned:
        job, group = self.job, self.group
        product_dtype(job.running.dtype, self.device)  # refuses fp16 before the run writes files
        asked = asked_recipe(job.training)
        known = Circumstances(is_mim=self._is_mim, recipe=asked.kind if asked else None)
        list(unused(job.training, known))  # refuses contradictions before anything is read
        directory = RunDirectory(job.out, self._options(), job.config)
        earlier = None
        if group.is_first:
            scan = scan_of(job.inputs, Omissions(self.reporter.note))
            earlier = directory.open(
                scan, overwrite=job.overwrite, resume=job.resume, read=self._files_read()
            )
        earlier = group.gather(earlier)[0]
        examples = earlier.examples if earlier else self._divided()
        failures = earlier.left_out if earlier else []
        model = self._model(examples)
        chosen = choose_recipe(job.training, model, examples, self.device, group.size)
        if earlier is None:
            self.reporter.note(f"recipe: {chosen.why}")
            self._note_unused(
                Circumstances(
                    is_mim=self._is_mim,
                    recipe=chosen.recipe.kind,
                    augment=chosen.augment,
                    holds_out=any(e.split == "val" for e in examples),
                )
            )
        self._check_batch(chosen)
        maker = FeedMaker(job, self.reporter, group, model, chosen)
        if chosen.recipe.kind == "head":
            feed, examples, broken = maker.of_features(examples)
            failures = [*failures, *broken]
        else:
            if earlier is None:
                examples, failures = maker.readable(examples)
            feed = maker.of_images(examples)
        if earlier is None and group.is_first:
            if self._has_classes:
                for name in sorted({*model.labels} - {e.label for e in examples}, key=os.fsencode):
                    self.reporter.note(f"no image of class {printable(name)} can be read")
                check_learnable(examples, self.reporter.note)
            directory.begin(examples, failures)
        self.reporter.left_out(failures, job.out / RUN)
        self.reporter.doing("starting the training")
        return self._train(directory, model, feed, examples, chosen, failures)

    def _files_read(self) -> Iterator[Read]:
        """The files that the run reads and must not overwrite. Raises ModelNotFound."""
        job = self.job
        yield Path(job.data), "the data of this run"
        if job.val is not None:
            yield Path(job.val), "the data of --val"
        if job.out.is_dir() and any(job.out.iterdir()):  # otherwise nothing can be overwritten
            yield from read_of_models([job.model], job.options)

    def _options(self) -> dict[str, object]:
        """The options that must be equal in a resumed run and in the interrupted one."""
        job = self.job
        model = job.model if isinstance(job.model, str) else job.model.spec
        options: dict[str, object] = {"data": job.data, "model": model, "val": job.val}
        options |= {f.name: getattr(job.training, f.name) for f in fields(job.training)}
        options |= {"dtype": job.running.dtype, "image_size": job.options.image_size}
        options["patch_size"] = job.options.patch_size
        options["no_flip"] = not options.pop("flip")
        del options["save_every"]
        return options

    def _divided(self) -> list[Example]:
        """The examples with their splits, which the first process reads for all processes."""
        job, training = self.job, self.job.training
        examples: list[Example] = []
        if self.group.is_first:
            self.reporter.doing("finding the images")
            omissions = Omissions(self.reporter.note)
            read = partial(
                read_examples,
                scan=scan_of(job.inputs, omissions),
                note=self.reporter.note,
                labelled=self._has_classes,
                allow_outside=job.inputs.allow_outside,
            )
            examples = read(job.data)
            if job.val is not None:
                held_out = read(job.val)
                examples = [replace(e, split="train") for e in examples]
                examples += [replace(e, split="val") for e in held_out]
            share, seed = training.val_split, training.seed
            self._note_unused(
                Circumstances(is_mim=self._is_mim, has_own_split=is_divided(examples))
            )
            examples = divide(examples, share, seed, self.reporter.note, labelled=self._has_classes)
            omissions.note_system()
        return self.group.gather(examples)[0]

    def _model(self, examples: Sequence[Example]) -> Model:
        """The model with the head or decoder that the objective needs."""
        job, keeps = self.job, not self._has_classes
        self.reporter.doing("loading the model")
        model = load_model(job.model, job.options, self.reporter.note, keep_decoder=keeps)
        check_one_size(model, "vit finetune")
        if self._has_classes:
            headed = with_head(model, class_names(examples))
            if library_for(headed.config) == "timm":
                self.reporter.note(
                    "the model is written for timm: transformers has no class for it with a head"
                )
            return headed
        return reconstruction_of(model, job.training.seed)

    def _note_unused(self, now: Circumstances) -> None:
        """Note the options that have no effect. Raises UsageError for those that contradict."""
        for text in unused(self.job.training, now):
            self.reporter.note(text)

    def _check_batch(self, chosen: ChosenRecipe) -> None:
        if chosen.batch_size % self.group.size:
            raise UsageError(
                f"--batch-size {chosen.batch_size} on {self.group.size} processes",
                "give a multiple of the number of processes: it counts the images of all of them",
            )

    def _train(
        self,
        directory: RunDirectory,
        model: Model,
        feed: Feed,
        examples: Sequence[Example],
        chosen: ChosenRecipe,
        failures: Sequence[Failure],
    ) -> Finetuned:
        job, group, device = self.job, self.group, self.device
        trained = make_trained(job, model, chosen.recipe, device, self.reporter.note)
        val = [e.found for e in examples if e.split == "val"]
        share = len(range(group.rank, len(val), group.size))
        trainer = Trainer(
            trained,
            feed,
            make_objective(job.training, model, examples, chosen, device),
            make_plan(job, model, chosen, feed.order, device),
            save=directory.save,
            best=lambda: directory.write_best(model, trained),
            group=group,
            judged=lambda done: self.reporter.steps("validation images", done, share),
            stops=lambda: interrupts.is_struck,
            higher_is_better=self._has_classes,
        )
        self._restore(trainer, directory)
        self._watch(trainer, chosen.epochs)
        if group.is_first:
            directory.finish(model, trainer.history, trainer.answers, val, failures, chosen.why)
            directory.write_card(
                model, training_of(job, chosen, examples, trainer.history, len(failures))
            )
            if is_foreign(job.out):
                self.reporter.note(kept(job.out))
        seconds = sum(row["seconds"] for row in trainer.history)
        return Finetuned(
            Summary(len(examples), len(failures), seconds),
            trainer.epoch,
            trainer.best_epoch,
            trainer.best_score if val and self._has_classes else None,
            len(val),
        )

    def _restore(self, trainer: Trainer, directory: RunDirectory) -> None:
        """Restore the state of the resumed run, if it had saved one."""
        state = self.group.gather(directory.state() if self.group.is_first else None)[0]
        if state is not None:
            trainer.restore(state)
            if trainer.epoch:
                self.reporter.note(f"resuming after epoch {trainer.epoch}, step {trainer.step}")
        elif directory.is_resumed:
            self.reporter.note("the earlier run had not saved anything yet: training starts over")

    def _watch(self, trainer: Trainer, epochs: int) -> None:
        """Train, and report each event. A signal takes effect after the current step, when all
        processes have stopped and the state is saved."""
        with interrupts.held():
            for event in trainer.run():
                self.reporter.trained(event, epochs)
        if trainer.is_stopped:
            try:
                interrupts.check()
                raise Interrupted(SIGTERM)  # the signal went to another process
            except Interrupted as interrupted:
                steps = trainer.feed.order.steps
                interrupted.after = (
                    f"epoch {trainer.epoch + 1} of {epochs}, step {trainer.step} of {steps}"
                )
                interrupted.can_resume = True
                interrupted.is_told = not self.group.is_first
                raise
